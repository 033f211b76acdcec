// The overview: how everything is in one strip, and a row for each service, worst first.

import { gwctl } from './actions.js';
import { h } from './dom.js';
import { latency, millis, number, percent, plural, rate } from './format.js';
import { STANDINGS, nodeStanding } from './model.js';
import { column, empty, link, mark, panicBadge, serviceLink, sortable, sparkline, standingWord, table } from './parts.js';
import { state } from './store.js';

const MAX_DOTS = 16;
const MAX_ROWS = 200;
const sorting = { by: 'worst', up: false };
let shown = MAX_ROWS;

export const title = 'Overview';

const ORDERS = {
  worst: (one) => one.verdict.rank * 1e9 + one.traffic.rate,
  service: (one) => one.service,
  replicas: (one) => one.ready / one.total,
  rate: (one) => one.traffic.rate,
  success: (one) => one.success ?? 2,
  before: (one) => one.before ?? 2,
  p50: (one) => millis(one.traffic.p50) ?? -1,
  p99: (one) => millis(one.traffic.p99) ?? -1,
  open: (one) => one.open,
};

export function view({ services, filter, redraw, filterField }) {
  const all = [...services.values()];
  const wanted = all.filter(({ service }) => service.includes(filter));
  const order = ORDERS[sorting.by];
  const compare = (one, other) => {
    const [a, b] = [order(one), order(other)];
    return (a < b ? -1 : a > b ? 1 : 0) * (sorting.up ? 1 : -1) || (one.service < other.service ? -1 : 1);
  };
  wanted.sort(compare);
  const onsort = (key) => {
    const isSame = sorting.by === key;
    Object.assign(sorting, { by: key, up: isSame ? !sorting.up : key === 'service' });
    redraw();
  };
  const head = (label, key, attrs) => sortable(label, key, sorting, onsort, attrs);
  return [
    h('h1.unseen', 'Overview'),
    strip(all),
    h('div.bar-row', h('h2', 'Services'), filterField('Filter services'),
      h('span.quiet.end', filter ? `${wanted.length} of ${plural(all.length, 'service')}` : plural(all.length, 'service'))),
    !all.length && empty('No service is registered yet.', 'The control plane is there and waits. Register a replica, and it appears here within a second:',
      h('code', gwctl('register', 'hello', '127.0.0.1:9000'))),
    all.length > 0 && !wanted.length && empty(`No service has “${filter}” in its name.`),
    wanted.length > 0 && table('Services, worst first', [
      head('State', 'worst'), head('Service', 'service'), head('Replicas', 'replicas'), head('Requests/s', 'rate', { class: 'wide' }),
      head('Success', 'success', { class: 'number', title: 'Share of clients’ requests that succeeded, retries included, over 10 s' }),
      head('Before retries', 'before', { class: 'number', title: 'Share of attempts at replicas that succeeded, over 10 s' }),
      head('P50', 'p50', { class: 'number' }), head('P99', 'p99', { class: 'number' }), head('Open', 'open', { class: 'number' }), column('Policy'),
    ], wanted.slice(0, shown).map(row), { class: 'services' }),
    wanted.length > shown && h('button', { type: 'button', onclick: () => { shown += MAX_ROWS; redraw(); } }, `Show more (${number(wanted.length - shown)} left)`),
  ];
}

function strip(all) {
  const nodes = [...state.nodes.values()].map(nodeStanding);
  const synced = nodes.filter(({ word }) => word === 'SYNCED').length;
  const sum = (name) => all.reduce((total, one) => total + one[name], 0);
  const [ready, total, open] = [sum('ready'), sum('total'), sum('open')];
  const requests = all.reduce((total, one) => total + one.traffic.rate, 0);
  const failures = all.reduce((total, one) => total + one.traffic.failures, 0);
  const success = requests > 0 ? 1 - failures / requests : undefined;
  const weighted = all.filter((one) => one.before !== undefined);
  const weight = weighted.reduce((total, one) => total + one.traffic.rate, 0);
  const before = weight > 0 ? weighted.reduce((total, one) => total + one.before * one.traffic.rate, 0) / weight : undefined;
  const tile = (label, value, note, tone, href) => h('div.tile', { class: tone && `tone-${tone}` },
    h('dt', href ? link(href, label) : label), h('dd', h('span.figure', value), note && h('span.note', note)));
  return h('dl.strip', { 'aria-label': 'Summary' },
    tile('Data planes', nodes.length ? `${synced}/${nodes.length}` : '0', nodes.length ? 'in sync' : 'none connected', !nodes.length || synced < nodes.length ? 'bad' : undefined, '#/nodes'),
    tile('Services', number(all.length)),
    tile('Replicas', `${number(ready)}/${number(total)}`, 'ready', total && ready < total ? 'warn' : undefined),
    tile('Requests/s', rate(requests), requests ? undefined : 'no traffic'),
    tile('Success', percent(success), success === undefined ? 'no requests in 10 s' : `${percent(before)} before retries`, success < 0.99 ? 'bad' : undefined),
    tile('Open breakers', number(open), open ? 'not closed' : 'all closed', open ? 'bad' : undefined, '#/breakers'),
  );
}

function row(one) {
  const { service, replicas, traffic } = one;
  const isQuiet = traffic.rate === 0;
  return h('tr', { key: service, 'data-open': `#/service/${encodeURIComponent(service)}` },
    h('td', standingWord(one.verdict), panicBadge(one)),
    h('th', { scope: 'row' }, serviceLink(service)),
    h('td', h('span.dots', replicas.slice(0, MAX_DOTS).map(({ replica, standing }) => mark(STANDINGS[standing], `${replica.replicaId}: ${STANDINGS[standing].word}`)),
      replicas.length > MAX_DOTS && h('span.quiet', `+${replicas.length - MAX_DOTS}`)), h('span.ratio', `${one.ready}/${one.total}`)),
    h('td.wide', h('span.rate', sparkline(service), h('span.value', { class: isQuiet && 'quiet' }, isQuiet ? 'no traffic' : rate(traffic.rate)))),
    h('td.number', { class: one.success < 0.99 && 'tone-bad' }, percent(one.success)),
    h('td.number.quiet', percent(one.before)),
    h('td.number', latency(millis(traffic.p50))), h('td.number', latency(millis(traffic.p99))),
    h('td.number', { class: one.open && 'tone-bad' }, one.open || '0'),
    h('td', link(`#/policy/${encodeURIComponent(one.policy === '*' ? '*' : service)}`, h('span.badge', { class: one.policy === 'own' && 'strong' }, one.policy))));
}
