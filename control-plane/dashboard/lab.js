// The lab of the demo: make replicas fail, turn the knobs that answer to it, and see what a client sees.

import { explain, gwctl } from './actions.js';
import { list, patch, path, post } from './api.js';
import { copy, toast } from './dialog.js';
import { h } from './dom.js';
import { clock, latency, left, rate, instant } from './format.js';
import { STANDINGS, breakerState, breakerWord, faultWords } from './model.js';
import { command, empty, replicaLink, serviceLink, sparkline, standingWord, table, column } from './parts.js';
import { forget, polled } from './polled.js';
import { duration } from './setting.js';
import { now, recent, state } from './store.js';

export const title = 'Lab';

const SECONDS = 300;
const MAX_LOG = 40;
const KINDS = { off: 'works', down: 'answers 503', slow: 'is slow', reset: 'resets', hang: 'hangs' };
const PATHS = ['/hello', '/messages', '/messages/flaky', '/messages/unreliable', '/messages/slow', '/messages/down'];
const KNOBS = [
  { path: 'retry.max_retry_count', label: 'Retries', json: ['retry', 'maxRetryCount'], steps: [0, 1, 2, 3, 5] },
  { path: 'timeout.per_try', label: 'Time for an attempt', json: ['timeout', 'perTry'], ms: true, steps: [100, 250, 500, 1000, 2500, 5000, 10000] },
  { path: 'timeout.request', label: 'Time for a request', json: ['timeout', 'request'], ms: true, steps: [500, 1000, 2500, 5000, 10000, 30000] },
  { path: 'breaker.consecutive_failure_count', label: 'Failures in a row that open', json: ['breaker', 'consecutiveFailureCount'], steps: [1, 2, 3, 5, 10, 20] },
  { path: 'breaker.base_open', label: 'First rest of an open breaker', json: ['breaker', 'baseOpen'], ms: true, steps: [250, 500, 1000, 2500, 5000, 15000] },
];

// What is set but not yet told, by replica.
const wishes = new Map();
const log = { rows: [], path: '/hello', isRunning: false, timer: null, redraw: () => {} };

export function view({ services, redraw }) {
  log.redraw = redraw;
  const { value: lab, problem } = polled('lab', () => list('/ui/lab/state'), redraw, 1500);
  if (!lab) return [h('h1', 'Lab'), empty(problem ? 'This is no demo.' : 'Asking the demo.', problem?.message)];
  const service = services.get(lab.service);
  const { value: resolved } = polled(`policy/${lab.service}`, () => list(`${path('v1', 'policies', lab.service)}:resolve`), redraw, 3000);
  const byPolicy = injected(lab.service);
  return [
    h('div.bar-row', h('h1', 'Lab'), h('span.quiet', 'of ', serviceLink(lab.service), '. Faults end after five minutes.'),
      h('button.end', { type: 'button', disabled: lab.replicas.every(({ fault }) => !fault), onclick: () => everythingWorks(lab, redraw) }, 'Everything works again')),
    byPolicy && h('p.warning', `The gateway injects ${byPolicy}.`),
    h('div.tiles', lab.replicas.map((replica) => bench(replica, lab, service, redraw))),
    h('div.columns', h('div', client(redraw)), h('div', knobs(lab.service, resolved, redraw))),
  ];
}

// What is injected on purpose into requests to the service, by a policy of its own or of all.
function injected(service) {
  const policies = [state.policies.get(service), state.policies.get('*')];
  const policy = policies.find((one) => instant(one?.fault?.endTime) > now());
  return policy && `${faultWords(policy.fault)}, for ${left(instant(policy.fault.endTime) - now())} more`;
}

function bench({ id, fault, problem }, lab, service, redraw) {
  const seen = service?.replicas.find(({ replica }) => replica.replicaId === id);
  const row = seen?.rows[0];
  const wish = wishes.get(id) ?? { kind: fault?.kind ?? 'off', ratio: fault?.ratio ?? 1, delayMs: fault?.delayMs || 1000 };
  const change = (name, isLast) => (event) => {
    wishes.set(id, { ...wish, [name]: name === 'kind' ? event.target.value : Number(event.target.value) });
    if (isLast) tell(id, wishes.get(id), redraw);
    else redraw();
  };
  const name = seen?.name ?? `${lab.service}/${id}`;
  const slider = (label, field, max, step, shown) => h('label.slider', h('span', label), h('input', { type: 'range', min: step, max, step, value: String(wish[field]), oninput: change(field), onchange: change(field, true), 'aria-valuetext': shown }), h('output', shown));
  return h('article.tile-breaker', { key: id, class: fault ? 'edge-warn' : 'edge-good' },
    h('header', h('h2', replicaLink(lab.service, id)), seen ? standingWord(STANDINGS[seen.standing]) : h('span.quiet', 'not registered')),
    h('span.rate', sparkline(name), h('span.value', `${rate(recent(name).rate)}/s`)),
    h('p', row ? `breaker ${breakerWord(row).toLowerCase()}${breakerState(row) === 'OPEN' && row.retryTime ? `, probe in ${left(instant(row.retryTime) - now())}` : ''}` : 'no breaker yet'),
    h('fieldset', h('legend', 'It'), Object.entries(KINDS).map(([kind, words]) => h('label.check', h('input', { type: 'radio', name: `kind-${id}`, value: kind, checked: wish.kind === kind, onchange: change('kind', true) }), h('span', words)))),
    wish.kind !== 'off' && slider('Share of requests', 'ratio', 1, 0.05, `${Math.round(wish.ratio * 100)}%`),
    wish.kind === 'slow' && slider('Delay', 'delayMs', 10000, 100, duration(wish.delayMs)),
    h('p.quiet', problem ? `it does not say: ${problem}` : fault ? `for ${left(fault.leftSeconds * 1000)} more` : 'no fault of its own'));
}

async function tell(id, wish, redraw) {
  try {
    await post('/ui/lab/fault', { replica: id, kind: wish.kind, ratio: wish.ratio, delayMs: wish.delayMs, seconds: SECONDS });
    wishes.delete(id);
  } catch (problem) {
    toast(explain(problem), { tone: 'bad' });
  }
  forget('lab');
  redraw();
}

async function everythingWorks(lab, redraw) {
  for (const { id, fault } of lab.replicas) if (fault) await tell(id, { kind: 'off', ratio: 1, delayMs: 0 }, redraw);
}

function knobs(service, resolved, redraw) {
  const value = (knob) => {
    const found = knob.json.reduce((inner, name) => inner?.[name], resolved?.policy);
    return knob.ms ? parseFloat(found) * 1000 : Number(found);
  };
  const turn = (knob) => async (event) => {
    const step = knob.steps[Number(event.target.value)];
    const told = knob.ms ? `${step / 1000}s` : step;
    try {
      await patch(path('v1', 'policies', service), { [knob.json[0]]: { [knob.json[1]]: told } }, { query: { allowMissing: true, author: 'dashboard', reason: 'lab' } });
    } catch (problem) {
      toast(explain(problem), { tone: 'bad', seconds: 10 });
    }
    forget(`policy/${service}`);
    redraw();
  };
  const policy = state.policies.get(service);
  const own = KNOBS.filter((knob) => knob.json.reduce((inner, name) => inner?.[name] ?? undefined, policy) !== undefined);
  const reset = async () => {
    const patchOf = {};
    for (const { json: [group, name] } of own) (patchOf[group] ??= {})[name] = null;
    try {
      await patch(path('v1', 'policies', service), patchOf, { query: { author: 'dashboard', reason: 'lab' }, etag: policy.etag });
    } catch (problem) {
      toast(explain(problem), { tone: 'bad' });
    }
    forget(`policy/${service}`);
    redraw();
  };
  return h('section.sheet', h('h2', 'Knobs'), KNOBS.map((knob) => {
    const holds = value(knob);
    const at = knob.steps.findLastIndex((step) => step <= holds);
    const shown = Number.isNaN(holds) ? '–' : knob.ms ? duration(holds) : String(holds);
    return h('label.slider', { key: knob.path }, h('span', knob.label), h('input', { type: 'range', min: 0, max: knob.steps.length - 1, step: 1, value: String(Math.max(0, at)), onchange: turn(knob), 'aria-valuetext': shown }), h('output', shown));
  }), h('div.buttons', h('button', { type: 'button', disabled: !own.length, onclick: reset }, 'Back to the defaults')), command(gwctl('policy', 'get', service, '--resolved'), copy));
}

function client(redraw) {
  return h('section', h('div.bar-row', h('h2', 'A client'),
    h('label.choices', h('span', 'asks for'), h('select', { value: log.path, onchange: (event) => { log.path = event.target.value; redraw(); } }, PATHS.map((one) => h('option', { value: one, selected: one === log.path }, one)))),
    h('button', { type: 'button', onclick: () => ask() }, 'Send one'), h('button', { type: 'button', onclick: () => { for (let index = 0; index < 10; index += 1) ask(); } }, 'Send ten'),
    h('button', { type: 'button', 'aria-pressed': String(log.isRunning), onclick: () => { run(!log.isRunning); redraw(); } }, log.isRunning ? 'Stop sending' : 'Go on sending')),
  log.rows.length ? table('What the client was answered', [column('Time'), column('Path'), column('Status'), column('Replica'), column('Attempts', { class: 'number' }), column('Took', { class: 'number' }), column('Proxy-Status')], log.rows.map((row) => h('tr', { key: row.number },
    h('td', clock(row.at)), h('td', row.path), h('td', { class: row.status >= 200 && row.status < 400 ? 'tone-good' : 'tone-bad' }, row.status || 'none'), h('td', row.replica || '–'), h('td.number', { class: Number(row.attempts) > 1 && 'tone-warn' }, row.attempts || '–'), h('td.number', latency(row.millis)), h('td', row.proxyStatus || row.error || '–'))))
    : h('p.quiet', 'Send a request, and see by which replica it was answered and after how many attempts.'));
}

let number = 0;
async function ask() {
  const own = { number: (number += 1), at: now(), path: log.path };
  try {
    Object.assign(own, await post('/ui/lab/request', { path: own.path }));
  } catch (problem) {
    Object.assign(own, { status: 0, error: problem.message });
    run(false);
  }
  log.rows = [own, ...log.rows].slice(0, MAX_LOG);
  log.redraw();
}

// Goes on for as long as this view is shown.
function run(isRunning) {
  clearInterval(log.timer);
  log.isRunning = isRunning;
  if (isRunning) log.timer = setInterval(() => (location.hash.startsWith('#/lab') ? ask() : run(false)), 400);
}
