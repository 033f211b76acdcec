// Pieces that several views are made of.

import { h } from './dom.js';
import { left, rate } from './format.js';
import { SECONDS, minute, now, seen } from './store.js';

const SHAPES = {
  disc: [['circle', { cx: 6, cy: 6, r: 4.6 }]],
  ring: [['circle', { cx: 6, cy: 6, r: 3.8, class: 'hollow' }]],
  square: [['rect', { x: 1.6, y: 1.6, width: 8.8, height: 8.8, rx: 1 }]],
  triangle: [['path', { d: 'M6 1.2 11 10.4H1Z' }]],
  diamond: [['path', { d: 'M6 .8 11.2 6 6 11.2.8 6Z' }]],
  half: [['circle', { cx: 6, cy: 6, r: 3.9, class: 'hollow' }], ['path', { d: 'M6 2.1a3.9 3.9 0 0 0 0 7.8Z' }]],
  cross: [['path', { d: 'M2.4 2.4l7.2 7.2m0-7.2-7.2 7.2', class: 'line' }]],
};

// A mark of a standing: shape and colour; its word stands beside it, or is its name for readers of the screen.
export function mark({ shape, tone }, label) {
  const name = label ? { role: 'img', 'aria-label': label } : { 'aria-hidden': 'true' };
  return h('svg.mark', { viewBox: '0 0 12 12', class: `tone-${tone}`, ...name },
    label && h('title', label), ...SHAPES[shape].map(([tag, attrs]) => h(tag, attrs)));
}

export const standingWord = (standing, text) => h('span.standing', { class: `tone-${standing.tone}` }, mark(standing), h('span', text ?? standing.word));

// Of a service that fails open somewhere.
export const panicBadge = (service) => service.panics && h('span.badge.panic', { title: 'So few of its replicas let traffic through that those with open breakers, or failing checks, are asked, too (breaker.fail_open_threshold)' }, 'PANIC');

// The last minute: requests as an area, failures stacked in it from the bottom.
export function sparkline(key, { width = 120, height = 22, wide } = {}) {
  const all = minute(key);
  // Before the page was opened nothing is known, which is not the same as nothing.
  const skipped = Math.max(0, Math.min(SECONDS - 2, SECONDS - seen()));
  const points = all.slice(skipped);
  const most = Math.max(...points.map((point) => point.rate), 1e-9);
  const isQuiet = points.every((point) => point.rate === 0);
  const step = width / (all.length - 1);
  const from = (skipped * step).toFixed(1);
  const y = (value) => (height - 1 - (value / most) * (height - 3)).toFixed(1);
  const line = (name) => points.map((point, index) => `${((skipped + index) * step).toFixed(1)} ${y(point[name])}`).join('L');
  const area = (name) => `M${from} ${height}L${line(name)}L${width} ${height}Z`;
  const failed = points.some((point) => point.failures > 0);
  const label = isQuiet ? 'no requests in the last minute' : `last minute: up to ${rate(most)} requests a second${failed ? ', some failed' : ''}`;
  return h('svg.spark', { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label, class: wide && 'wide' },
    h('title', label),
    isQuiet ? h('path', { class: 'idle', d: `M0 ${height - 1.5}H${width}` }) : [
      h('path', { class: 'area', d: area('rate') }),
      failed && h('path', { class: 'failed', d: area('failures') }),
      h('path', { class: 'edge', d: `M${line('rate')}` }),
    ]);
}

export const countdown = (until) => h('span.countdown', until === undefined ? 'no end' : left(until - now()));

export const link = (href, ...children) => h('a', { href }, ...children);
export const serviceLink = (name, ...children) => link(`#/service/${encodeURIComponent(name)}`, ...(children.length ? children : [name]));
export const replicaLink = (service, id, ...children) => link(`#/replica/${encodeURIComponent(service)}/${encodeURIComponent(id)}`, ...(children.length ? children : [id]));

// A heading of a column that sorts by it.
export function sortable(label, key, sorting, onsort, attrs = {}) {
  const direction = sorting.by === key ? (sorting.up ? 'ascending' : 'descending') : 'none';
  return h('th', { scope: 'col', 'aria-sort': direction, ...attrs },
    h('button.sort', { type: 'button', onclick: () => onsort(key) }, label, h('span.arrow', { 'aria-hidden': 'true' }, { ascending: '▲', descending: '▼', none: '' }[direction])));
}

export const column = (label, attrs = {}) => h('th', { scope: 'col', ...attrs }, label);

// A table that scrolls by itself where the screen is narrow, by keyboard, too.
export const table = (label, head, rows, attrs = {}) =>
  h('div.scroll', { tabindex: '0', role: 'region', 'aria-label': label },
    h('table', attrs, h('caption.unseen', label), h('thead', h('tr', ...head)), h('tbody', ...rows)));

export const empty = (title, ...lines) => h('div.empty', h('p.lead', title), ...lines.map((line) => h('p', line)));

// A part of a whole as a bar.
export function bar(parts, label) {
  const total = parts.reduce((sum, { value }) => sum + value, 0);
  let at = 0;
  return h('svg.bar', { viewBox: '0 0 100 6', preserveAspectRatio: 'none', role: 'img', 'aria-label': label },
    h('rect', { class: 'track', x: 0, y: 0, width: 100, height: 6 }),
    total > 0 && parts.map(({ value, tone }) => {
      const width = (value / total) * 100;
      const rect = h('rect', { class: `tone-${tone}`, x: at.toFixed(2), y: 0, width: width.toFixed(2), height: 6 });
      at += width;
      return rect;
    }));
}

// A line to paste into a shell.
export function command(text, copy) {
  return h('div.command', h('code', text), h('button.small', { type: 'button', onclick: () => copy(text), 'aria-label': `Copy ${text}` }, 'Copy'));
}

export const facts = (...pairs) => h('dl.facts', ...pairs.filter(Boolean).map(([name, ...value]) => h('div', h('dt', name), h('dd', ...value))));
