// What the page can change. Each action says beforehand what comes of it, in numbers, and the line that does the same in
// a shell; afterwards how many data planes have it, and offers to take it back for ten seconds where that can be.

import { path, patch, post, remove } from './api.js';
import { announce, copy, openDialog, toast } from './dialog.js';
import { h } from './dom.js';
import { instant, left, plural, quoted } from './format.js';
import { isReady } from './model.js';
import { command } from './parts.js';
import { now, state } from './store.js';

const AUTHOR = 'dashboard';
// How long an action waits for data planes before it says how many have it.
const WAIT = '2s';

export const gwctl = (...words) => {
  const at = location.origin === 'http://127.0.0.1:7400' || location.origin === 'http://localhost:7400' ? [] : ['-e', location.origin];
  return ['gwctl', ...at, ...words.filter((word) => word !== undefined && word !== '')].map(quoted).join(' ');
};

// A line that the control plane has written, for this control plane: it does not know by which address it is reached.
export const retold = (line) => line.replace(/^gwctl\b/, gwctl());

const said = (rollout) => (rollout ? ` ${rollout.ackedNodeCount} of ${plural(rollout.nodeCount, 'data plane')} ${rollout.ackedNodeCount === 1 ? 'has' : 'have'} it.` : '');

async function attempt(work) {
  try {
    return await work();
  } catch (problem) {
    toast(explain(problem), { tone: 'bad', seconds: 12 });
    return undefined;
  }
}

export function explain(problem) {
  if (problem.reason === 'ETAG_MISMATCH') return 'Somebody else has changed it meanwhile. Nothing was changed: look at it again first.';
  return problem.message;
}

const MINUTES = [['5m', 300], ['15m', 900], ['1h', 3600], ['4h', 14400], ['24h', 86400]];

// Asks before it acts. `fields` are 'reason' (required), 'because' (a reason that may be missing), 'ttl', 'block', 'last'.
function confirm({ title, consequences, warning, fields, line, verb, tone, run }) {
  const given = { reason: '', ttl: '15m', block: '', last: false, problem: '', busy: false };
  const asks = (name) => fields.includes(name);
  const draw = openDialog(title, (close) => {
    const change = (name) => (event) => {
      given[name] = event.target.type === 'checkbox' ? event.target.checked : event.target.value;
      redraw();
    };
    const submit = async (event) => {
      event.preventDefault();
      if (given.busy) return;
      Object.assign(given, { busy: true, problem: '' });
      redraw();
      try {
        await run(given);
        close();
      } catch (problem) {
        Object.assign(given, { busy: false, problem: explain(problem) });
        announce(given.problem);
        redraw();
      }
    };
    const isReadOnly = state.hello && !state.hello.takesWrites;
    const spans = (name, none) => h('select', { value: given[name], onchange: change(name) },
      none && h('option', { value: '' }, none), ...MINUTES.map(([text]) => h('option', { value: text, selected: given[name] === text }, text)));
    return [h('form', { onsubmit: submit, novalidate: true },
      h('h2', title),
      h('ul.consequences', ...consequences.filter(Boolean).map((text) => h('li', text))),
      warning && h('p.warning', warning),
      asks('ttl') && h('label', h('span', 'For'), spans('ttl')),
      asks('block') && h('label', h('span', 'Keep it from registering again for'), spans('block', 'not at all')),
      (asks('reason') || asks('because')) && h('label', h('span', asks('reason') ? 'Why (shown to everybody while it lasts)' : 'Why'),
        h('input', { value: given.reason, oninput: change('reason'), required: asks('reason'), autofocus: true, maxlength: 200, autocomplete: 'off' })),
      asks('last') && h('label.check', h('input', { type: 'checkbox', checked: given.last, onchange: change('last') }), h('span', 'Although no other replica is ready')),
      command(line(given), copy),
      given.problem && h('p.problem', { role: 'alert' }, given.problem),
      isReadOnly && h('p.problem', 'This control plane takes no changes from web pages. Use the line above.'),
      h('div.buttons', h('button', { type: 'button', onclick: close }, 'Cancel'),
        h('button.primary', { type: 'submit', class: tone && `tone-${tone}`, disabled: given.busy || isReadOnly || (asks('reason') && !given.reason.trim()) || (asks('last') && !given.last) }, given.busy ? 'Waiting for data planes' : verb)))];
  });
  const redraw = () => draw();
}

const seconds = (text) => `${Object.fromEntries(MINUTES)[text]}s`;
const breakerPath = (row, verb) => `${path('v1', 'breakers', row.service, row.replicaId)}:${verb}`;

// Forces a breaker, on one data plane or on all of them.
export function force(row, wanted) {
  const isOpen = wanted === 'FORCED_OPEN';
  const name = `${row.service}/${row.replicaId}`;
  const siblings = [...state.replicas.values()].filter((replica) => replica.service === row.service && isReady(replica));
  const others = siblings.filter((replica) => replica.replicaId !== row.replicaId).length;
  const where = row.nodeId ? `On ${row.nodeId} only.` : `On all ${plural(state.nodes.size, 'data plane')}, those to come included.`;
  confirm({
    title: isOpen ? `Open the breaker of ${name}` : `Close the breaker of ${name}`,
    verb: isOpen ? 'Open it' : 'Close it',
    tone: isOpen ? 'bad' : undefined,
    consequences: isOpen
      ? [where, 'It gets no requests, not even probes.', siblings.some((replica) => replica.replicaId === row.replicaId) ? `1 of ${plural(siblings.length, 'ready replica')}: ${plural(others, 'other')} ${others === 1 ? 'remains' : 'remain'}.` : `${plural(others, 'other replica')} of ${row.service} ${others === 1 ? 'is' : 'are'} ready.`]
      : [where, 'It gets its share of requests whatever happens: outcomes are counted and never trip it.'],
    warning: isOpen && others === 0 ? `No other replica of ${row.service} is ready: its requests will fail.` : '',
    fields: ['ttl', 'reason'],
    line: ({ ttl, reason }) => gwctl('breaker', isOpen ? 'open' : 'close', name, '--ttl', ttl, '--reason', reason || 'WHY', ...(row.nodeId ? ['--node', row.nodeId] : [])),
    run: async ({ ttl, reason }) => {
      const body = { state: wanted, ttl: seconds(ttl), reason, author: AUTHOR, nodeId: row.nodeId, waitTimeout: WAIT };
      const { activeOverride, rollout } = await post(breakerPath(row, 'override'), body);
      toast(`${name} is forced ${isOpen ? 'open' : 'closed'} for ${ttl}.${said(rollout)}`, { undo: () => handBack(activeOverride, true) });
    },
  });
}

// Ends an override before its time.
export function handBack(entry, isUndo = false) {
  return attempt(async () => {
    const { ended } = await remove(`/v1/overrides/${entry.overrideId.split('/').map(encodeURIComponent).join('/')}`, { author: AUTHOR, reason: isUndo ? 'undone' : 'handed back to its rules' });
    const isBreaker = entry.kind.startsWith('OVERRIDE_KIND_BREAKER') && !entry.kind.endsWith('RESET');
    const again = { state: entry.kind.endsWith('OPEN') ? 'FORCED_OPEN' : 'FORCED_CLOSED', reason: entry.reason, author: AUTHOR, nodeId: entry.nodeId };
    const undo = isBreaker && !isUndo && (() => attempt(() => post(breakerPath(entry, 'override'), { ...again, ttl: `${Math.max(1, Math.round((instant(entry.expireTime) - now()) / 1000))}s` })));
    toast(!ended ? 'It had ended already.' : isUndo ? 'Undone.' : `${entry.service}: the rules hold again.`, { undo: ended && undo });
  });
}

export function reset(row) {
  const name = `${row.service}/${row.replicaId}`;
  confirm({
    title: `Reset the breaker of ${name}`,
    verb: 'Reset it',
    consequences: [row.nodeId ? `On ${row.nodeId} only.` : `On all ${plural(state.nodes.size, 'data plane')}.`, 'It closes, and forgets what it has counted. Its rules go on from there: it opens again if the replica still fails.', 'This cannot be undone.'],
    fields: ['because'],
    line: ({ reason }) => gwctl('breaker', 'reset', name, ...(row.nodeId ? ['--node', row.nodeId] : []), ...(reason ? ['--reason', reason] : [])),
    run: async ({ reason }) => {
      const { rollout } = await post(breakerPath(row, 'reset'), { reason, author: AUTHOR, nodeId: row.nodeId, waitTimeout: WAIT });
      toast(`The breaker of ${name} was reset.${said(rollout)}`);
    },
  });
}

const replicaPath = (replica, verb) => `${path('v1', 'services', replica.service, 'replicas', replica.replicaId)}${verb ?? ''}`;

function remaining(replica) {
  const ready = [...state.replicas.values()].filter((other) => other.service === replica.service && isReady(other));
  const others = ready.filter((other) => other.replicaId !== replica.replicaId).length;
  const text = isReady(replica) ? `1 of ${plural(ready.length, 'ready replica')}: ${others || 'none'} ${others === 1 ? 'remains' : 'remain'}.` : `It is not ready; ${plural(others, 'other')} of ${replica.service} ${others === 1 ? 'is' : 'are'}.`;
  return { text, isLast: isReady(replica) && others === 0 };
}

export function drain(replica) {
  const name = `${replica.service}/${replica.replicaId}`;
  const { text, isLast } = remaining(replica);
  const inflight = [...state.breakers.values()].filter((row) => row.service === replica.service && row.replicaId === replica.replicaId).reduce((sum, row) => sum + row.inflightCount, 0);
  confirm({
    title: `Drain ${name}`,
    verb: 'Drain it',
    consequences: [text, 'It gets no new requests. Those in flight may finish within the drain timeout of its policy.', `${plural(inflight, 'request')} in flight now.`],
    warning: isLast ? `It is the last ready replica of ${replica.service}: requests will fail until another is ready.` : '',
    fields: isLast ? ['because', 'last'] : ['because'],
    tone: isLast ? 'bad' : undefined,
    line: ({ reason }) => gwctl('drain', name, ...(reason ? ['--reason', reason] : []), ...(isLast ? ['--allow-last'] : [])),
    run: async ({ reason, last }) => {
      await post(replicaPath(replica, ':drain'), { reason, author: AUTHOR, allowLast: last });
      toast(`${name} is draining.`, { undo: () => undrain(replica, true) });
    },
  });
}

export function undrain(replica, isUndo = false) {
  return attempt(async () => {
    await post(replicaPath(replica, ':undrain'), { author: AUTHOR, reason: isUndo ? 'undone' : '' });
    const again = () => attempt(() => post(replicaPath(replica, ':drain'), { author: AUTHOR, reason: replica.drain?.reason ?? '', allowLast: true }));
    toast(isUndo ? 'Undone.' : `${replica.service}/${replica.replicaId} gets requests again.`, { undo: isUndo ? undefined : again });
  });
}

export function deregister(replica, onDone) {
  const name = `${replica.service}/${replica.replicaId}`;
  const { text, isLast } = remaining(replica);
  const { lease } = replica;
  const lives = lease && !lease.permanent;
  confirm({
    title: `Deregister ${name}`,
    verb: 'Deregister it',
    tone: 'bad',
    consequences: [text, 'It is removed from the registry, and requests in flight to it are not waited for: drain it first.'],
    warning: lives
      ? `Its process keeps a lease of ${lease.ttl} alive. It is told that it is gone, and most register again at once, unless you keep it from that below.`
      : isLast ? `It is the last ready replica of ${replica.service}: its requests will fail.` : '',
    fields: ['block', 'because'],
    line: ({ block, reason }) => gwctl('deregister', name, '--yes', ...(block ? ['--block', block] : []), ...(reason ? ['--reason', reason] : [])),
    run: async ({ block, reason }) => {
      await remove(replicaPath(replica), { force: true, reason, author: AUTHOR, blockReregisterTtl: block ? seconds(block) : undefined });
      const { replicaId, endpoint, weight, priority, locality, version, labels } = replica;
      const again = () => attempt(async () => {
        await post(path('v1', 'services', replica.service, 'replicas'), { replicaId, endpoint, weight, priority, locality: locality ?? undefined, version, labels, permanent: true });
        toast('Undone: it is registered again.');
      });
      // Whoever holds a lease can only come back by itself.
      toast(`${name} is deregistered.`, { undo: lives || block ? undefined : again });
      onDone?.();
    },
  });
}

// Ends what is in force, whatever it is.
export function end(item) {
  if (item.kind === 'override') return handBack(item.entry);
  if (item.kind === 'drain') return undrain(item.replica);
  const { service, etag, fault } = item.policy;
  return attempt(async () => {
    const url = path('v1', 'policies', service);
    const { policy } = await patch(url, { fault: null }, { query: { author: AUTHOR, reason: 'ended' }, etag });
    toast('No faults are injected any more.', { undo: () => attempt(() => patch(url, { fault }, { query: { author: AUTHOR, reason: 'undone' }, etag: policy.etag })) });
  });
}

export const timeLeft = (until) => (until === undefined ? 'until ended' : left(until - now()));
