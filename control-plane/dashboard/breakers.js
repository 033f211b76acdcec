// The breaker board: a tile for each breaker that is not closed, and the closed ones as a grid below, there at zero
// traffic, too.

import { force, handBack, reset } from './actions.js';
import { h } from './dom.js';
import { clock, count, instant, left, plural, word } from './format.js';
import { breakerState, breakerWord, isClosed, rank, why, worse } from './model.js';
import { bar, empty, mark, replicaLink, serviceLink } from './parts.js';
import { nameOf, now, state } from './store.js';

const MAX_TILES = 60;
const MAX_CLOSED = 300;

export const title = 'Breakers';

export function view({ services, filter, filterField }) {
  const rows = [...state.breakers.values()].filter((row) => nameOf(row).includes(filter));
  const open = rows.filter((row) => !isClosed(row));
  // By service, the one with the worst breaker first.
  const worst = new Map();
  for (const row of open) worst.set(row.service, Math.max(worst.get(row.service) ?? 0, rank(row)));
  open.sort((one, other) => worst.get(other.service) - worst.get(one.service) || (one.service < other.service ? -1 : one.service > other.service ? 1 : worse(one, other) || (nameOf(one) < nameOf(other) ? -1 : 1)));
  const closed = rows.filter(isClosed);
  return [
    h('div.bar-row', h('h1', 'Breakers'), filterField('Filter by service or replica'),
      h('span.quiet.end', `${open.length} not closed, ${closed.length} closed${state.hello?.isDetailed ? ', one for each replica and data plane' : ''}`)),
    !state.breakers.size && empty('No data plane has told of a breaker yet.', services.size ? 'Breakers appear here as soon as a data plane follows the registry.' : 'There is one for each replica on each data plane, from the first registration on, whether there is traffic or not.'),
    state.breakers.size > 0 && !open.length && h('p.all-closed', mark({ shape: 'disc', tone: 'good' }), filter ? 'Every breaker of these is closed: traffic flows.' : 'Every breaker is closed: traffic flows.'),
    open.length > 0 && h('section', { key: 'open' }, h('h2', 'Not closed'), h('div.tiles', open.slice(0, MAX_TILES).map(tile))),
    open.length > MAX_TILES && h('p.quiet', `${open.length - MAX_TILES} more are not closed: filter for them.`),
    closed.length > 0 && h('section', { key: 'closed' }, h('h2', 'Closed'), grid(closed)),
  ];
}

const pips = (row) => {
  const own = [...state.breakers.values()].filter((other) => nameOf(other) === nameOf(row));
  const merged = own.find((other) => !other.nodeId);
  const [open, total] = merged ? [merged.openNodeCount, merged.nodeCount] : [own.filter((other) => !isClosed(other)).length, own.length];
  return `${open} of ${plural(total, 'data plane')}`;
};

const TONES = { OPEN: 'bad', FORCED_OPEN: 'bad', HALF_OPEN: 'warn', FORCED_CLOSED: 'warn' };

function tile(row) {
  const own = breakerState(row);
  const tone = TONES[own] ?? 'calm';
  const entry = row.activeOverride;
  const [requests, failed, slow] = [row.windowRequestCount, row.windowFailureCount, row.windowSlowCount].map(count);
  const good = Math.max(0, requests - failed - slow);
  return h('article.tile-breaker', { key: `${nameOf(row)}/${row.nodeId}`, class: `edge-${tone}`, 'data-breaker': `${nameOf(row)}/${row.nodeId}` },
    h('header', h('h3', serviceLink(row.service), ' / ', replicaLink(row.service, row.replicaId)), row.nodeId && h('span.quiet', `on ${row.nodeId}`)),
    h('p.big', { class: `tone-${tone}` }, mark({ shape: own === 'HALF_OPEN' ? 'half' : own === 'FORCED_CLOSED' ? 'disc' : 'square', tone }), breakerWord(row)),
    until(row, own, entry),
    h('p.reason', why(row) || (own === 'HALF_OPEN' ? 'Let through one request at a time, until it has shown that it works.' : 'No reason was told.')),
    requests > 0 && h('div.window', bar([{ value: good, tone: 'good' }, { value: slow, tone: 'warn' }, { value: failed, tone: 'bad' }], `of ${requests} in its window ${failed} failed and ${slow} were slow`),
      h('span.quiet', `${good} ok, ${failed} failed, ${slow} slow in its window`)),
    row.lastTrip && row.lastTrip.reason !== why(row) && h('p.quiet', `last trip ${clock(instant(row.lastTrip.tripTime))}: ${row.lastTrip.reason}`),
    h('p.quiet', `${plural(count(row.tripCount), 'trip')}, not closed on ${pips(row)}, since ${clock(instant(row.stateChangeTime) ?? now())}`),
    h('div.buttons', ...breakerButtons(row)));
}

function until(row, own, entry) {
  if (entry) return h('p.until', 'forced for ', h('span.countdown', left(instant(entry.expireTime) - now())), entry.author && ` by ${entry.author}`);
  const retry = instant(row.retryTime);
  if (own === 'OPEN' && retry !== undefined) {
    const wait = retry - now();
    return h('p.until', wait > 0 ? ['next probe in ', h('span.countdown', left(wait))] : 'probes with the next request');
  }
  if (own === 'HALF_OPEN') return h('p.until', `${row.probeSuccessCount} of ${row.probeSuccessTarget} probes have succeeded`);
  return h('p.until', word(row.rule, 'BREAKER_RULE_').toLowerCase());
}

// What can be done to a breaker as it is.
export function breakerButtons(row) {
  const own = breakerState(row);
  const entry = row.activeOverride;
  const name = `${nameOf(row)}${row.nodeId ? ` on ${row.nodeId}` : ''}`;
  const button = (text, onclick) => h('button.small', { type: 'button', onclick, 'aria-label': `${text}: ${name}` }, text);
  return [
    entry && button('Back to automatic', () => handBack(entry)),
    own !== 'FORCED_OPEN' && button('Open', () => force(row, 'FORCED_OPEN')),
    own !== 'FORCED_CLOSED' && button('Close', () => force(row, 'FORCED_CLOSED')),
    !entry && own !== 'CLOSED' && button('Reset', () => reset(row)),
  ];
}

function grid(closed) {
  const byService = new Map();
  for (const row of closed.slice(0, MAX_CLOSED)) {
    if (!byService.has(row.service)) byService.set(row.service, []);
    byService.get(row.service).push(row);
  }
  return [
    h('ul.grid', [...byService].map(([service, rows]) => h('li.group', { key: service }, serviceLink(service), h('ul', rows
      .sort((one, other) => (`${one.replicaId}/${one.nodeId}` < `${other.replicaId}/${other.nodeId}` ? -1 : 1))
      .map((row) => h('li', { key: `${nameOf(row)}/${row.nodeId}`, 'data-breaker': `${nameOf(row)}/${row.nodeId}` },
        replicaLink(row.service, row.replicaId, mark({ shape: 'disc', tone: 'good' }), h('span', row.replicaId), row.nodeId && h('span.quiet', row.nodeId), h('span.unseen', 'closed')),
        h('span.quiet.counts', windowWords(row)), h('button.small', { type: 'button', onclick: () => force(row, 'FORCED_OPEN'), 'aria-label': `Open: ${nameOf(row)} on ${row.nodeId || 'all data planes'}` }, 'Open'))))))),
    closed.length > MAX_CLOSED && h('p.quiet', `${closed.length - MAX_CLOSED} more are closed.`),
  ];
}

function windowWords(row) {
  const [requests, failed] = [count(row.windowRequestCount), count(row.windowFailureCount)];
  if (!requests) return 'no traffic';
  return failed ? `${failed} of ${requests} failed` : `${requests} ok`;
}
