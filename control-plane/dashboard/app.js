// The page: its header, where one is, and drawing everything anew when something has changed.

import { drain, end, force, gwctl, timeLeft, undrain } from './actions.js';
import * as breakers from './breakers.js';
import { announce, copy, drawToasts } from './dialog.js';
import { h, render } from './dom.js';
import * as events from './events.js';
import { span } from './format.js';
import { help, listen, step } from './keys.js';
import * as lab from './lab.js';
import { breakerWord, inForce, survey } from './model.js';
import * as nodes from './nodes.js';
import * as overview from './overview.js';
import { mark } from './parts.js';
import * as policy from './policy.js';
import * as replica from './replica.js';
import * as service from './service.js';
import * as session from './session.js';
import { nameOf, state } from './store.js';
import { isStale, link, open, pause, reconnect } from './stream.js';

const VIEWS = { '': overview, breakers, service, replica, nodes, events, policy, lab };
const NAVIGATION = [['', 'Overview'], ['breakers', 'Breakers'], ['nodes', 'Data planes'], ['events', 'Events'], ['policy/*', 'Policies']];
// Drawing more often than this is work for nobody; and a page of thousands must leave a browser time for its reader.
const PACE = 200;
const THEMES = ['auto', 'light', 'dark'];

const page = { view: overview, name: '', args: [], query: new URLSearchParams(), filter: '', drawnAt: 0, took: 0, timer: null, services: new Map() };

function route() {
  // What is behind a question mark says where in a view somebody looks: another view it is not.
  const [where, asked = ''] = location.hash.replace(/^#\/?/, '').split('?');
  const [name = '', ...args] = where.split('/').map(decode);
  const isOther = name !== page.name || args.join('/') !== page.args.join('/');
  const isElsewhere = asked !== page.query.toString();
  Object.assign(page, { name, args, query: new URLSearchParams(asked), view: VIEWS[name] ?? overview });
  if (!isOther && page.drawnAt) {
    if (isElsewhere) draw();
    return;
  }
  const wasDrawn = page.drawnAt > 0;
  page.filter = '';
  draw();
  if (wasDrawn) {
    document.getElementById('main').focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

const go = (hash) => { location.hash = hash; return true; };

function context() {
  return { services: page.services, args: page.args, query: page.query, filter: page.filter, redraw, filterField, go };
}

function redraw(change) {
  Object.assign(page, change);
  draw();
}

function filterField(label) {
  return h('input.filter', { type: 'search', placeholder: `${label}  /`, 'aria-label': label, value: page.filter, oninput: (event) => redraw({ filter: event.target.value.trim() }), autocomplete: 'off', spellcheck: 'false' });
}

function schedule() {
  if (page.timer) return;
  page.timer = setTimeout(() => { page.timer = null; draw(); }, Math.max(0, page.drawnAt + Math.max(PACE, 5 * page.took) - Date.now()));
}

function draw() {
  page.drawnAt = Date.now();
  const start = performance.now();
  page.services = survey();
  render(document.getElementById('header'), ...header());
  const main = document.getElementById('main');
  main.classList.toggle('stale', isStale());
  document.title = `${page.view.title} – Gateway`;
  if (session.session.isAsked) render(main, session.form());
  else if (state.hello) render(main, ...page.view.view(context()));
  else if (link.problem || (!link.isUp && Date.now() - began > 2000)) render(main, h('div.empty', h('p.lead', 'The control plane does not answer.'), h('p', link.problem || 'This page asks again every second and shows what there is as soon as it does.')));
  drawToasts();
  showWhere();
  page.took = performance.now() - start;
}

// On a phone the views do not fit side by side: the one that is open is brought into sight, once for each width.
function showWhere() {
  const here = document.querySelector('nav [aria-current]');
  const at = `${here?.textContent} ${window.innerWidth}`;
  if (at === page.at) return;
  page.at = at;
  here?.scrollIntoView({ block: 'nearest', inline: 'nearest' });
}

function header() {
  const force = inForce();
  return [
    h('div.top',
      h('a.brand', { href: '#/' }, h('img', { src: '/ui/icon.svg', alt: '', width: 18, height: 18 }), 'Gateway'),
      h('nav', { 'aria-label': 'Views' }, [...NAVIGATION, ...(state.hello?.hasLab ? [['lab', 'Lab']] : [])].map(([target, label]) => {
        const name = target.split('/')[0];
        const isHere = page.name === name || (name === '' && ['service', 'replica'].includes(page.name));
        return h('a', { href: `#/${target}`, 'aria-current': isHere && 'page' }, label);
      })),
      h('div.tools', status(),
        h('button.plain', { type: 'button', onclick: togglePause, 'aria-pressed': String(link.isPaused), title: 'Pause the stream (.)' }, link.isPaused ? 'Resume' : 'Pause'),
        h('button.plain', { type: 'button', onclick: nextTheme, title: 'Theme (t)', 'aria-label': `Theme: ${theme()}` }, h('span', { 'aria-hidden': 'true' }, '◐'), ` ${theme()}`),
        h('button.plain', { type: 'button', onclick: help, title: 'Keys (?)', 'aria-label': 'Keys' }, '?'),
        session.isSignedIn() && !session.session.isAsked && h('button.plain', { type: 'button', onclick: session.signOut }, `Sign out${state.hello?.caller ? ` ${state.hello.caller}` : ''}`))),
    banner(),
    state.silent.length > 0 && h('p.banner.partial', { key: 'partial' }, state.silent.length === 1 ? `The control plane at ${state.silent[0].address} is silent (${state.silent[0].reason}): of its data planes, what it told last is shown, or nothing.` : `${state.silent.length} control planes are silent (${state.silent.map(({ address }) => address).join(', ')}): of their data planes, what they told last is shown, or nothing.`),
    state.hello && !state.hello.takesWrites && h('p.banner.note', state.hello.caller ? `Read only: ${state.hello.caller} may look, and not change how the gateway works. Each action shows its line for a shell.` : 'Read only: this control plane listens beyond this machine, and was not started with --allow-dashboard-writes. Each action shows its line for a shell.'),
    force.length > 0 && h('section.force', { 'aria-label': 'In force' }, h('ul', force.slice(0, 4).map((item) => h('li', { key: item.key },
      h('span.what', item.what), h('span.countdown', timeLeft(item.until)), (item.reason || item.author) && h('span.quiet', `${item.reason ?? ''}${item.author ? ` (${item.author})` : ''}`),
      h('button.small', { type: 'button', onclick: () => end(item), 'aria-label': `End: ${item.what}` }, 'End'))), force.length > 4 && h('li.quiet', `and ${force.length - 4} more`))),
  ];
}

function status() {
  if (link.isPaused) return h('span.status', { class: 'tone-warn' }, mark({ shape: 'half', tone: 'warn' }), 'Paused');
  if (isStale()) return h('span.status', { class: 'tone-bad' }, mark({ shape: 'cross', tone: 'bad' }), 'Lost');
  return h('span.status', mark({ shape: link.heardAt ? 'disc' : 'ring', tone: link.heardAt ? 'good' : 'calm' }), link.heardAt ? 'Live' : 'Connecting');
}

function banner() {
  if (!isStale()) return null;
  const age = span(Math.floor((Date.now() - link.heardAt) / 1000) * 1000);
  if (link.isPaused) return h('p.banner', { key: 'banner' }, `Paused ${age} ago: what is shown is as of then.`);
  return h('p.banner.lost', { key: 'banner' }, `The control plane has said nothing for ${age}. What is shown is as old as that; data planes go on with what they have. ${link.problem}`);
}

const theme = () => localStorage.getItem('theme') ?? 'auto';

function applyTheme() {
  const chosen = theme();
  if (chosen === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
}

function nextTheme() {
  localStorage.setItem('theme', THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length]);
  applyTheme();
  draw();
  return true;
}

function togglePause() {
  pause(!link.isPaused);
  draw();
  return true;
}

// The replica that is shown, or that has the focus.
function chosenReplica() {
  const focused = document.activeElement?.closest('tr, li, article')?.querySelector('a[href^="#/replica/"]')?.getAttribute('href');
  const parts = focused ? focused.split('/').slice(2).map(decode) : page.name === 'replica' ? page.args : [];
  return state.replicas.get(parts.join('/'));
}

function act(key) {
  const chosen = chosenReplica();
  const row = chosen && { service: chosen.service, replicaId: chosen.replicaId, nodeId: '' };
  switch (key) {
    case 'g o': return go('#/');
    case 'g b': return go('#/breakers');
    case 'g n': return go('#/nodes');
    case 'g e': return go('#/events');
    case 'g p': return go('#/policy/*');
    case 'g l': return Boolean(state.hello?.hasLab) && go('#/lab');
    case 'g s': {
      const worst = [...page.services.values()].sort((one, other) => other.verdict.rank - one.verdict.rank)[0];
      const own = chosen?.service ?? (page.name === 'service' ? page.args[0] : worst?.service);
      return own ? go(`#/service/${encodeURIComponent(own)}`) : go('#/');
    }
    case '/': { const field = document.querySelector('main .filter'); field?.focus(); return Boolean(field); }
    case 'clear': redraw({ filter: '' }); return true;
    case 'j': return step(1);
    case 'k': return step(-1);
    case 'd': if (chosen) (['REPLICA_MODE_DRAINING', 'REPLICA_MODE_DRAINED'].includes(chosen.mode) ? undrain : drain)(chosen); return Boolean(chosen);
    case 'b': if (row) force(row, 'FORCED_OPEN'); return Boolean(row);
    case '.': return togglePause();
    case 't': return nextTheme();
    case 'c': copy(line(chosen)); return true;
    case '?': help(); return true;
    default: return false;
  }
}

// What a person would type to see this in a shell.
function line(chosen) {
  if (chosen) return gwctl('describe', 'replica', nameOf(chosen));
  switch (page.name) {
    case 'breakers': return gwctl('get', 'breakers');
    case 'nodes': return gwctl('get', 'nodes');
    case 'events': return gwctl('events', '-w');
    case 'service': return gwctl('explain', page.args[0]);
    case 'policy': return gwctl('policy', 'get', page.args[0] ?? '*', '--resolved');
    default: return gwctl('get', 'services');
  }
}

const began = Date.now();
applyTheme();
listen(act);
addEventListener('hashchange', route);
addEventListener('resize', showWhere);
session.listen((isNew) => { if (isNew) reconnect(); schedule(); });
open((heard) => {
  if (heard.length) announce(heard.slice(0, 3).map((row) => `${nameOf(row)} is ${breakerWord(row).toLowerCase()}${row.nodeId ? ` on ${row.nodeId}` : ''}`).join(', ') + (heard.length > 3 ? `, and ${heard.length - 3} more` : ''));
  schedule();
});
route();
