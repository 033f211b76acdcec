// What happened to a replica along a line of time: a lane for each who told, in a window that is moved and zoomed. Where the
// window stands is in the address, so a link leads others to the same moment.

import { list } from './api.js';
import { h } from './dom.js';
import { TONES, severity, timeline } from './events.js';
import { clock, instant, moment, plural, span } from './format.js';
import { polled } from './polled.js';
import { isFoldOf, now, state } from './store.js';

const MINUTE = 60000;
const SPANS = [['1m', MINUTE], ['5m', 5 * MINUTE], ['15m', 15 * MINUTE], ['1h', 60 * MINUTE], ['6h', 360 * MINUTE], ['24h', 1440 * MINUTE], ['7d', 10080 * MINUTE]];
const USUAL = 2;
const MAX_LANES = 12;
const WIDTH = 1000;
const ROW = 22;
// As events of breakers name them.
const STATES = { open: 'bad', forced_open: 'bad', half_open: 'warn', forced_closed: 'calm' };

// Where the address says that the window stands: around `at`, or, without that, up to now.
export function standing(query) {
  const at = moment(query.get('t'));
  const zoom = SPANS.findIndex(([name]) => name === query.get('span'));
  const size = SPANS[zoom < 0 ? USUAL : zoom][1];
  const end = Number.isFinite(at) ? at + size / 2 : now();
  return { at: Number.isFinite(at) ? at : undefined, zoom: zoom < 0 ? USUAL : zoom, size, start: end - size, end };
}

// The address of a moment, or of now without one, at this zoom.
export function address(hash, at, zoom = USUAL) {
  const query = new URLSearchParams();
  if (at !== undefined) query.set('t', new Date(Math.round(at)).toISOString());
  if (zoom !== USUAL) query.set('span', SPANS[zoom][0]);
  return query.size ? `${hash}?${query}` : hash;
}

// The events of one replica, oldest first: those that the page has heard of, and what the control plane has kept from before.
function eventsOf(service, replicaId, redraw) {
  const own = [...state.events.values()].filter((event) => event.service === service && event.replicaId === replicaId);
  const { value } = polled(`events/${service}/${replicaId}`, () => list('/v1/events', { service, replicaId, pageSize: 500 }), redraw, 10000);
  const known = new Set(own.map((event) => event.eventId));
  const older = (value?.events ?? []).filter((event) => !known.has(event.eventId) && !own.some((newer) => newer.repeatCount > 0 && isFoldOf(newer, event)));
  return [...older, ...own].sort((one, other) => instant(one.eventTime) - instant(other.eventTime));
}

export function history({ service, id, hash, query, redraw, go }) {
  const events = eventsOf(service, id, redraw);
  if (!events.length) return h('section', h('h2', 'What happened'), h('p.quiet', 'Nothing since this control plane started.'));
  const own = standing(query);
  const within = events.filter((event) => instant(event.eventTime) >= own.start && (firstTime(event) <= own.end));
  const move = (at, zoom = own.zoom) => go(address(hash, at, zoom));
  const middle = own.at ?? own.end - own.size / 2;
  const isNow = own.at === undefined;
  const button = (label, text, onclick, disabled) => h('button.small', { type: 'button', 'aria-label': label, title: label, onclick, disabled: Boolean(disabled) }, text);
  const nearest = isNow ? undefined : within.reduce((best, event) => (!best || distance(event, own.at) < distance(best, own.at) ? event : best), undefined);
  const before = events.filter((event) => instant(event.eventTime) < own.start).at(-1);
  const after = events.find((event) => firstTime(event) > own.end);
  return h('section.history', h('div.bar-row', h('h2', 'What happened'),
    h('span.buttons', { role: 'group', 'aria-label': 'Time shown' },
      button('Earlier', '◀', () => move(middle - own.size / 2)), button('Later', '▶', () => (middle + own.size >= now() ? move(undefined) : move(middle + own.size / 2)), isNow),
      // At now, zooming keeps to it.
      button('Zoom in', '+', () => move(own.at, own.zoom - 1), own.zoom === 0), button('Zoom out', '−', () => move(own.at, own.zoom + 1), own.zoom === SPANS.length - 1),
      button('Up to now', 'Now', () => move(undefined), isNow)),
    h('span.quiet.end', `${isNow ? 'The last' : 'Within'} ${SPANS[own.zoom][0]}: ${plural(within.length, 'event')}`)),
  lanes(within, events, own, move),
  within.length ? timeline([...within].reverse().slice(0, 100), { own: true, here: nearest?.eventId, link: (event) => address(hash, instant(event.eventTime), own.zoom) })
    : h('p.quiet', 'Nothing in this time. ', before && h('a', { href: address(hash, instant(before.eventTime), own.zoom) }, `The event before: ${clock(instant(before.eventTime))}`), ' ', after && h('a', { href: address(hash, instant(after.eventTime), own.zoom) }, `the one after: ${clock(instant(after.eventTime))}`)));
}

const firstTime = (event) => instant(event.firstTime ?? event.eventTime);
const distance = (event, at) => Math.abs(instant(event.eventTime) - at);

// For the eye; the list below says the same, and more.
function lanes(within, all, own, move) {
  const names = [...new Set(all.map((event) => event.nodeId))].sort().slice(0, MAX_LANES);
  const x = (at) => ((Math.min(Math.max(at, own.start), own.end) - own.start) / own.size) * WIDTH;
  const rect = (tone, from, to, y, height) => h('rect', { class: `tone-${tone}`, x: from.toFixed(1), y, width: Math.max(2, to - from).toFixed(1), height });
  const rows = names.map((name, index) => {
    const top = index * ROW;
    const bands = [];
    let state = null;
    // Also what began before the window.
    for (const event of all.filter((one) => one.nodeId === name && one.metadata?.to && !one.metadata.withheld)) {
      if (state) bands.push({ ...state, until: instant(event.eventTime) });
      const tone = STATES[event.metadata.to];
      state = tone ? { tone, since: instant(event.eventTime) } : null;
    }
    if (state) bands.push({ ...state, until: now() });
    return [
      h('rect.lane', { x: 0, y: top + 3, width: WIDTH, height: ROW - 6 }),
      bands.filter(({ since, until }) => until > own.start && since < own.end).map(({ tone, since, until }) => rect(tone, x(since), x(until), top + 6, ROW - 12)),
      within.filter((event) => event.nodeId === name).map((event) => rect((TONES[severity(event)] ?? TONES.INFO).tone, x(instant(event.eventTime)) - 1.5, x(instant(event.eventTime)) + 1.5, top + 3, ROW - 6)),
    ];
  });
  const height = names.length * ROW;
  const label = `${plural(within.length, 'event')} between ${clock(own.start)} and ${clock(own.end)}; each is in the list below`;
  return h('div.lanes', h('ul', names.map((name) => h('li', name || 'registry'))),
    h('div', h('svg', { viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: 'none', height, role: 'img', 'aria-label': label,
      onclick: (event) => { const box = event.currentTarget.getBoundingClientRect(); move(own.start + ((event.clientX - box.left) / box.width) * own.size); } },
    h('title', label), rows, own.at !== undefined && h('rect.cursor', { x: WIDTH / 2 - 1, y: 0, width: 2, height })),
    h('div.axis', { 'aria-hidden': 'true' }, h('span', clock(own.start)), h('span', own.at === undefined ? `${span(own.size / 2)} ago` : clock(own.at)), h('span', own.at === undefined ? 'now' : clock(own.end)))));
}
