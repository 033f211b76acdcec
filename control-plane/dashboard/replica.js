// A replica: whether it gets requests and why, its lease, its breakers on each data plane, and what happened to it.

import { deregister, drain, force, gwctl, retold, undrain } from './actions.js';
import { list, path } from './api.js';
import { breakerButtons } from './breakers.js';
import { copy } from './dialog.js';
import { h } from './dom.js';
import { clock, count, instant, latency, left, millis, number, percent, rate, span, word } from './format.js';
import { history } from './history.js';
import { STANDINGS, breakerState, breakerWord, isClosed, why as whyOf } from './model.js';
import { bar, column, command, empty, facts, mark, serviceLink, sparkline, standingWord, table } from './parts.js';
import { polled } from './polled.js';
import { steps } from './service.js';
import { now, recent } from './store.js';

export const title = 'Replica';

const EFFECTS = { EFFECT_KEEPS_OUT: { shape: 'square', tone: 'bad', word: 'keeps it out' }, EFFECT_LESSENS: { shape: 'half', tone: 'warn', word: 'lessens its share' }, EFFECT_KEEPS_IN: { shape: 'disc', tone: 'good', word: 'keeps it in' } };

export function view({ services, args: [service, id], query, redraw, go }) {
  const name = `${service}/${id}`;
  const seen = services.get(service)?.replicas.find((one) => one.replica.replicaId === id);
  const { value: explained, problem } = polled(`replica/${name}`, () => list(`${path('v1', 'services', service, 'replicas', id)}:explain`), redraw);
  const heading = h('div.bar-row', h('h1', serviceLink(service), ' / ', id), seen && standingWord(STANDINGS[seen.standing]));
  const hash = `#/replica/${encodeURIComponent(service)}/${encodeURIComponent(id)}`;
  const happened = history({ service, id, hash, query, redraw, go });
  if (!seen) {
    return [heading, empty('This replica is not registered.', explained?.summary ?? problem?.message, explained?.removed && `${explained.removed.cause}, ${clock(instant(explained.removed.removeTime))}`), happened];
  }
  const { replica, rows } = seen;
  const isOut = ['REPLICA_MODE_DRAINING', 'REPLICA_MODE_DRAINED'].includes(replica.mode);
  const all = { service, replicaId: id, nodeId: '' };
  return [
    heading,
    h('div.buttons', { role: 'group', 'aria-label': 'Actions' },
      isOut ? h('button', { type: 'button', onclick: () => undrain(replica) }, 'Undrain') : h('button', { type: 'button', onclick: () => drain(replica) }, 'Drain'),
      h('button', { type: 'button', onclick: () => force(all, 'FORCED_OPEN') }, 'Open breaker'), h('button', { type: 'button', onclick: () => force(all, 'FORCED_CLOSED') }, 'Close breaker'),
      h('button', { type: 'button', onclick: () => deregister(replica, () => go(`#/service/${encodeURIComponent(service)}`)) }, 'Deregister')),
    h('div.columns',
      h('div', why(explained), breakers(rows), happened),
      h('div', traffic(seen), lease(explained?.replica?.lease ?? replica.lease), about(replica),
        h('section.sheet', h('h2', 'In a shell'), command(gwctl('explain', name), copy), command(gwctl('describe', 'replica', name), copy)))),
  ];
}

function why(explained) {
  if (!explained) return h('section.sheet', h('h2', 'Why'), h('p.quiet', 'Asking the data planes.'));
  const verdict = word(explained.verdict, 'REPLICA_VERDICT_').toLowerCase();
  return h('section.sheet', h('h2', `Why it ${{ 'takes requests': 'takes requests', out: 'is out', 'partly out': 'is partly out', 'stands by': 'stands by', removed: 'was removed' }[verdict] ?? 'is as it is'}`),
    h('p.summary', explained.summary),
    explained.causes?.length > 0 && h('ul.causes', explained.causes.map((cause) => {
      const effect = EFFECTS[cause.effect] ?? { shape: 'ring', tone: 'calm', word: '' };
      const since = instant(cause.sinceTime);
      const until = instant(cause.untilTime);
      return h('li', mark(effect, effect.word), h('div', h('span', h('strong', word(cause.layer, 'LAYER_').toLowerCase()), ` ${effect.word}: ${cause.summary}`),
        h('span.quiet', [since && `since ${clock(since)}`, until > now() ? `for ${left(until - now())} more` : cause.until, cause.heardNodeCount > 0 && `on ${cause.nodeCount} of ${cause.heardNodeCount} data planes`].filter(Boolean).join(', ')),
        cause.errors?.length > 0 && h('ul.errors', cause.errors.slice(0, 3).map((error) => h('li', error))),
        cause.nextStep?.command?.startsWith('gwctl') && command(retold(cause.nextStep.command), copy)));
    })),
    explained.nextSteps?.length > 0 && steps(explained.nextSteps));
}

function breakers(rows) {
  return h('section', h('h2', 'Breakers'), rows.length ? table('Breakers by data plane', [column('Data plane'), column('State'), column('Next'), column('Reason'), column('Window', { class: 'number' }), column('Failed', { class: 'number' }), column('Trips', { class: 'number' }), column('Act')], rows.map((row) => {
    const own = breakerState(row);
    const tone = { OPEN: 'bad', FORCED_OPEN: 'bad', HALF_OPEN: 'warn', FORCED_CLOSED: 'warn' }[own] ?? 'good';
    const next = row.activeOverride ? `forced for ${left(instant(row.activeOverride.expireTime) - now())}` : own === 'OPEN' && row.retryTime ? `probe in ${left(instant(row.retryTime) - now())}` : '–';
    return h('tr', { key: row.nodeId }, h('th', { scope: 'row' }, row.nodeId || `all ${row.nodeCount}`), h('td', standingWord({ tone, shape: tone === 'good' ? 'disc' : own === 'HALF_OPEN' ? 'half' : 'square', word: breakerWord(row) })),
      h('td', next), h('td.reason', { class: isClosed(row) && 'quiet' }, whyOf(row) || '–'), h('td.number', number(count(row.windowRequestCount))), h('td.number', number(count(row.windowFailureCount))), h('td.number', number(count(row.tripCount))),
      h('td', h('span.buttons', breakerButtons(row))));
  })) : h('p.quiet', 'No data plane has told of one yet.'),
  rows.some((row) => row.lastErrors.length) && h('div.sheet', h('h3', 'Last errors'), h('ul.errors', rows.flatMap((row) => row.lastErrors.slice(0, 5).map((error) => h('li', h('span.quiet', `${row.nodeId}: `), error))))));
}

function traffic({ name, rows }) {
  const own = recent(name);
  const sum = (field) => rows.reduce((total, row) => total + count(row[field]), 0);
  const check = rows.map((row) => row.healthCheck).find(Boolean);
  return h('section.sheet', h('h2', 'Last minute'), sparkline(name, { width: 240, height: 64, wide: true }),
    facts(['Attempts', `${rate(own.rate)}/s`], ['Success', own.rate ? percent(1 - own.failures / own.rate) : '–'], ['Latency', `${latency(millis(own.p50))} median, ${latency(millis(own.p99))} P99`],
      ['In flight', sum('inflightCount')], ['Since registered', `${number(sum('registrationAttemptCount'))} attempts, ${number(sum('registrationFailureCount'))} failed`],
      check && ['Health checks', `${word(check.state, 'HEALTH_CHECK_STATE_').toLowerCase()} (${word(check.type, 'HEALTH_CHECK_TYPE_').toLowerCase()})`, check.lastFailure && `: ${check.lastFailure}`]));
}

function lease(lease) {
  if (!lease || lease.permanent) return h('section.sheet', h('h2', 'Lease'), h('p', 'None: it stays until somebody deregisters it.'));
  const ttl = millis(lease.ttl);
  const rest = Math.max(0, instant(lease.expireTime) - now());
  return h('section.sheet', h('h2', 'Lease'), bar([{ value: Math.min(rest, ttl), tone: rest < ttl / 3 ? 'warn' : 'good' }, { value: Math.max(0, ttl - rest), tone: 'none' }], `${left(rest)} of ${span(ttl)} left`),
    facts(['Left', `${left(rest)} of ${span(ttl)}`], ['Renewed', `${span(Math.max(0, Math.floor((now() - instant(lease.lastRenewTime)) / 1000) * 1000))} ago`]));
}

function about(replica) {
  const labels = Object.entries(replica.labels);
  return h('section.sheet', h('h2', 'Registration'), facts(['Address', h('code', replica.endpoint?.address)], ['Health', word(replica.health, 'HEALTH_STATUS_').toLowerCase(), replica.stateReason && `: ${replica.stateReason}`],
    ['Mode', word(replica.mode, 'REPLICA_MODE_').toLowerCase()], ['Weight', replica.weight], ['Priority', replica.priority], ['Version', replica.version || '–'],
    replica.locality && ['Locality', [replica.locality.region, replica.locality.zone].filter(Boolean).join(' / ') || '–'], ['Incarnation', replica.incarnation], ['Registered', clock(instant(replica.createTime))],
    ...labels.map(([key, value]) => [key, value])));
}
