// What happened, newest first, with filters. Repeats are folded by the control plane.

import { list } from './api.js';
import { h } from './dom.js';
import { clock, instant, moment, plural, word } from './format.js';
import { empty, mark, replicaLink, serviceLink } from './parts.js';
import { polled } from './polled.js';
import { state } from './store.js';

const PAGE = 150;
const chosen = { type: '', service: '', actor: '', severity: '' };
let shown = PAGE;

export const title = 'Events';

export const TONES = { ERROR: { shape: 'triangle', tone: 'bad' }, WARNING: { shape: 'diamond', tone: 'warn' }, INFO: { shape: 'disc', tone: 'calm' } };
export const severity = (event) => String(event.severity).replace('EVENT_SEVERITY_', '');

export function view({ filter, query, redraw, filterField }) {
  // A moment in the address: what had happened by then, newest first.
  const at = moment(query.get('t'));
  const isPast = Number.isFinite(at);
  const past = isPast && polled(`events/${at}`, () => list('/v1/events', { endTime: new Date(at + 1).toISOString(), pageSize: 500 }), redraw, 60000);
  const all = isPast ? past.value?.events ?? [] : [...state.events.values()].reverse();
  const values = (name) => [...new Set(all.map((event) => event[name]).filter(Boolean))].sort();
  const choose = (label, name, options, spoken = (value) => value) => h('label', h('span', label), h('select', { value: chosen[name], onchange: (event) => { chosen[name] = event.target.value; redraw(); } },
    h('option', { value: '', selected: chosen[name] === '' }, 'all'), ...options.map((value) => h('option', { value, selected: chosen[name] === value }, spoken(value)))));
  const wanted = all.filter((event) => (!chosen.type || event.eventType === chosen.type) && (!chosen.service || event.service === chosen.service)
    && (!chosen.actor || event.actor === chosen.actor) && (!chosen.severity || severity(event) === chosen.severity)
    && (!filter || `${event.message} ${event.service} ${event.replicaId} ${event.nodeId}`.includes(filter)));
  const isFiltered = filter || Object.values(chosen).some(Boolean);
  return [
    h('div.bar-row', h('h1', 'Events'), filterField('Filter by text'), h('span.quiet.end', `${wanted.length} of the last ${plural(all.length, 'event')}`)),
    h('div.bar-row.choices', choose('Type', 'type', values('eventType'), (value) => word(value, '').toLowerCase()), choose('Service', 'service', values('service')), choose('Actor', 'actor', values('actor')), choose('Severity', 'severity', ['INFO', 'WARNING', 'ERROR'], (value) => value.toLowerCase()),
      isFiltered && h('button', { type: 'button', onclick: () => { Object.assign(chosen, { type: '', service: '', actor: '', severity: '' }); redraw({ filter: '' }); } }, 'Show all')),
    isPast && h('p.quiet', `What had happened by ${clock(at)}. `, h('a', { href: '#/events' }, 'Show the newest'), past.problem && h('span.problem', past.problem.message)),
    !all.length && !(isPast && past.isLoading) && empty(isPast ? 'Nothing is known from before then.' : 'Nothing has happened yet since this control plane started.'),
    all.length > 0 && !wanted.length && empty('No event is like that.'),
    timeline(wanted.slice(0, shown), { link: (event) => `#/events?t=${encodeURIComponent(event.eventTime)}`, here: isPast && wanted[0]?.eventId }),
    wanted.length > shown && h('button', { type: 'button', onclick: () => { shown += PAGE; redraw(); } }, 'Show more'),
  ];
}

// Events as a list, each on a line of its own; those of one service without its name. `link` yields the address of an event's
// moment, and `here` is the one at the moment that is shown.
export function timeline(events, { own, link, here } = {}) {
  const time = (event) => h('time', { datetime: event.eventTime, title: event.eventTime }, clock(instant(event.eventTime)));
  return events.length > 0 && h('ol.timeline', { class: own && 'own' }, events.map((event) => h('li', { key: event.eventId, class: `severity-${severity(event).toLowerCase()}`, 'aria-current': event.eventId === here && 'true' },
    link ? h('a', { href: link(event) }, time(event)) : time(event),
    h('span.type', mark(TONES[severity(event)] ?? TONES.INFO, severity(event).toLowerCase()), word(event.eventType, '').toLowerCase()),
    h('span.where', event.service && !own && serviceLink(event.service), event.replicaId && [!own && '/', replicaLink(event.service, event.replicaId)], !event.service && event.nodeId),
    h('span.what', event.message, event.repeatCount > 0 && h('span.badge', { title: `since ${event.firstTime ? clock(instant(event.firstTime)) : 'then'}` }, `×${event.repeatCount + 1}`)),
    h('span.who.quiet', event.actor))));
}
