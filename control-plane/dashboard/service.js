// A service: its replicas with their traffic, why they are asked or not, and what happened.

import { list, path } from './api.js';
import { h } from './dom.js';
import { timeline } from './events.js';
import { count, latency, millis, percent, plural, rate, word } from './format.js';
import { STANDINGS, isClosed } from './model.js';
import { column, command, empty, facts, link, mark, panicBadge, replicaLink, sparkline, standingWord, table } from './parts.js';
import { polled } from './polled.js';
import { recent, state } from './store.js';
import { gwctl, retold } from './actions.js';
import { copy } from './dialog.js';

const MAX_REPLICAS = 300;

export const title = 'Service';

export function view({ services, args: [name], filter, filterField, redraw }) {
  const service = services.get(name);
  const events = [...state.events.values()].filter((event) => event.service === name).reverse().slice(0, 40);
  if (!service) {
    return [h('h1', name), empty('No replica of this service is registered.', 'It appears here with its first one.', h('code', gwctl('register', name, 'HOST:PORT'))),
      events.length > 0 && h('section', h('h2', 'What happened to it'), timeline(events, { own: true }))];
  }
  const { value: explained } = polled(`service/${name}`, () => list(`${path('v1', 'services', name)}:explain`), redraw);
  const shown = service.replicas.filter(({ replica }) => replica.replicaId.includes(filter));
  const { traffic } = service;
  return [
    h('div.bar-row', h('h1', name), standingWord(service.verdict), panicBadge(service), h('span.end', link(`#/policy/${encodeURIComponent(name)}`, 'Policy'))),
    explained && h('p.summary', explained.summary),
    h('div.columns',
      h('div',
        h('section', h('div.bar-row', h('h2', 'Replicas'), filterField('Filter replicas'), h('span.quiet.end', `${service.ready} of ${service.total} ready`)),
          table('Replicas', [column('State'), column('Replica'), column('Address'), column('Breakers'), column('Requests/s', { class: 'number' }), column('Success', { class: 'number' }), column('P50', { class: 'number' }), column('P99', { class: 'number' }), column('In flight', { class: 'number' }), column('Weight', { class: 'number' }), column('Version')], shown.slice(0, MAX_REPLICAS).map(row)),
          shown.length > MAX_REPLICAS && h('p.quiet', `${shown.length - MAX_REPLICAS} more: filter for them.`)),
        h('section', h('h2', 'What happened'), events.length ? timeline(events, { own: true }) : h('p.quiet', 'Nothing since this control plane started.'))),
      h('div',
        h('section.sheet', h('h2', 'Last minute'), sparkline(name, { width: 240, height: 64, wide: true }),
          facts(['Requests', `${rate(traffic.rate)}/s`], ['Failed', `${rate(traffic.failures)}/s`], ['Retried', `${rate(traffic.retries)}/s`],
            ['Success', percent(service.success), service.before !== undefined && h('span.quiet', ` (${percent(service.before)} before retries)`)],
            ['Latency', `${latency(millis(traffic.p50))} median, ${latency(millis(traffic.p99))} P99`], ['Not closed', plural(service.open, 'breaker')])),
        explained?.nextSteps?.length > 0 && h('section.sheet', h('h2', 'What to do'), steps(explained.nextSteps)),
        h('section.sheet', h('h2', 'In a shell'), command(gwctl('explain', name), copy), command(gwctl('get', 'replicas', name), copy)))),
  ];
}

export const steps = (next) => h('ul.causes', next.map((step) => h('li', mark({ shape: 'ring', tone: 'calm' }), h('div', step.purpose, step.command && (step.command.startsWith('gwctl') ? command(retold(step.command), copy) : h('span.quiet', step.command))))));

function row({ name, replica, rows, standing }) {
  const own = recent(name);
  const sum = (field) => rows.reduce((total, one) => total + count(one[field]), 0);
  const open = rows.filter((one) => !isClosed(one)).length;
  const { address, protocol } = replica.endpoint ?? {};
  return h('tr', { key: name, 'data-open': true },
    h('td', standingWord(STANDINGS[standing])), h('th', { scope: 'row' }, replicaLink(replica.service, replica.replicaId)),
    h('td', h('code', address), protocol && !protocol.endsWith('HTTP1') && h('span.badge', word(protocol, 'ENDPOINT_PROTOCOL_').toLowerCase())),
    h('td', rows.length ? rows.slice(0, 12).map((one) => mark(isClosed(one) ? { shape: 'disc', tone: 'good' } : { shape: 'square', tone: 'bad' }, `${one.nodeId || 'all'}: ${word(one.state, 'BREAKER_STATE_').toLowerCase()}`)) : h('span.quiet', 'none told'),
      open > 0 && h('span.tone-bad', ` ${open} not closed`)),
    h('td.number', rate(own.rate)), h('td.number', { class: own.failures > 0 && 'tone-bad' }, own.rate ? percent(1 - own.failures / own.rate) : '–'),
    h('td.number', latency(millis(own.p50))), h('td.number', latency(millis(own.p99))), h('td.number', sum('inflightCount')), h('td.number', replica.weight), h('td', replica.version || h('span.quiet', '–')));
}
