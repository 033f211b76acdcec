// The policy of a service, or of all: every setting with what holds and where that is from, and changes to it, with what
// comes of them before they are made.

import { explain, gwctl } from './actions.js';
import { list, patch, path, post } from './api.js';
import { copy, toast } from './dialog.js';
import { h } from './dom.js';
import { clock, count, instant, number, plural } from './format.js';
import { bar, command, link, serviceLink } from './parts.js';
import { forget, polled } from './polled.js';
import { duration, mergePatch, read, valueIn, written } from './setting.js';
import { state } from './store.js';

export const title = 'Policy';

let settings = null;
const editor = { scope: null, base: null, edits: new Map(), reason: '', said: null, whatIf: null, busy: false };

function begin(scope) {
  Object.assign(editor, { scope, base: state.policies.get(scope) ?? null, edits: new Map(), reason: '', said: null, whatIf: null, busy: false });
}

// What is changed, as [setting, JSON], null for what is taken out; and what is wrong with what was written.
function changes() {
  const list = [];
  const wrong = [];
  for (const [setting, text] of editor.edits) {
    try {
      const value = text === null ? null : read(setting, text);
      const before = valueIn(editor.base, setting);
      if (JSON.stringify(value ?? undefined) !== JSON.stringify(before)) list.push([setting, value]);
    } catch (problem) {
      wrong.push([setting, problem.message]);
    }
  }
  return { list, wrong };
}

export function view({ services, args: [scope = '*'], filter, filterField, redraw }) {
  if (!settings) {
    settings = [];
    list('/ui/settings.json').then((all) => { settings = all; redraw(); }, () => { settings = null; });
  }
  if (editor.scope !== scope) begin(scope);
  const { value: resolved, problem } = polled(`policy/${scope}`, () => list(`${path('v1', 'policies', scope)}:resolve`), redraw, 3000);
  const stored = state.policies.get(scope) ?? null;
  // Nothing is lost by taking up what others changed while nothing was edited here.
  if (!editor.edits.size && editor.base?.etag !== stored?.etag) editor.base = stored;
  const isBehind = editor.edits.size > 0 && (stored?.etag ?? '') !== (editor.base?.etag ?? '');
  const groups = new Map();
  for (const setting of settings.filter((one) => one.path.includes(filter) && !one.path.startsWith('fault.'))) {
    const group = setting.path.includes('.') ? setting.path.split('.')[0] : 'draining';
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push(setting);
  }
  const scopes = [...new Set(['*', ...services.keys(), ...state.policies.keys(), scope])].sort();
  return [
    h('div.bar-row', h('h1', scope === '*' ? 'Policy of all services' : ['Policy of ', serviceLink(scope)]),
      h('label.choices', h('span.unseen', 'Whose policy'), h('select', { value: scope, onchange: (event) => { location.hash = `#/policy/${encodeURIComponent(event.target.value)}`; } }, scopes.map((name) => h('option', { value: name, selected: name === scope }, name === '*' ? '* (all services)' : name)))),
      filterField('Filter settings'),
      h('span.quiet.end', stored ? `changed by ${stored.updatedBy || 'somebody'} ${clock(instant(stored.updateTime))}${stored.updateReason ? `: ${stored.updateReason}` : ''}` : 'nothing is set here')),
    problem && h('p.problem', problem.message),
    isBehind && h('p.warning', `Somebody else has changed this policy meanwhile${stored?.updatedBy ? ` (${stored.updatedBy})` : ''}. `,
      h('button.small', { type: 'button', onclick: () => { editor.base = stored; editor.said = null; redraw(); } }, 'Take that up, keep my changes')),
    h('div.columns.editor', h('div', [...groups].map(([group, own]) => form(group, own, resolved, filter, redraw))), h('div', proposal(scope, resolved, redraw), history(scope, redraw), faults(scope))),
  ];
}

function form(group, own, resolved, filter, redraw) {
  const set = own.filter((setting) => valueIn(editor.base, setting) !== undefined || editor.edits.has(setting)).length;
  return h('details.sheet', { key: group, open: filter || set || ['timeout', 'retry', 'breaker'].includes(group) ? true : undefined },
    h('summary', h('h2', group.replaceAll('_', ' ')), set > 0 && h('span.badge.strong', `${set} set here`)),
    h('ul.settings', own.map((setting) => row(setting, resolved, redraw))));
}

function row(setting, resolved, redraw) {
  const stored = valueIn(editor.base, setting);
  const holds = written(setting, valueIn(resolved?.policy, setting)) || setting.default;
  const origin = resolved?.origins?.[setting.path] ?? 'default';
  const edited = editor.edits.get(setting);
  const text = edited === undefined ? written(setting, stored) : edited ?? '';
  const id = `setting-${setting.path}`;
  let wrong = '';
  if (edited) try { read(setting, edited); } catch (problem) { wrong = problem.message; }
  const change = (event) => {
    const value = event.target.value;
    if (value === written(setting, stored)) editor.edits.delete(setting);
    else editor.edits.set(setting, value === '' && setting.kind !== 'text' ? null : value);
    Object.assign(editor, { said: null, whatIf: null });
    redraw();
  };
  const options = setting.kind === 'flag' ? ['true', 'false'] : setting.choices.map(([name]) => name);
  const attrs = { id, value: text, 'aria-describedby': `${id}-about`, 'aria-invalid': wrong ? 'true' : undefined };
  return h('li', { key: setting.path, class: edited !== undefined && 'edited' },
    h('label', { for: id }, h('code', setting.path.split('.').at(-1))),
    options.length ? h('select', { ...attrs, onchange: change }, h('option', { value: '', selected: text === '' }, `${holds} (${origin})`), options.map((name) => h('option', { value: name, selected: text === name }, name)))
      : h('input', { ...attrs, placeholder: holds, oninput: change, autocomplete: 'off', spellcheck: 'false' }),
    h('span.origin', h('span.badge', { class: stored !== undefined && edited === undefined && 'strong' }, edited !== undefined ? 'changed' : origin),
      text !== '' && h('button.small.plain', { type: 'button', 'aria-label': `Unset ${setting.path}`, onclick: () => { if (stored === undefined) editor.edits.delete(setting); else editor.edits.set(setting, null); redraw(); } }, 'unset')),
    h('p.quiet', { id: `${id}-about` }, setting.meaning, h('span.range', ` ${setting.range.replace('..=', ' to ')}. Default ${setting.default}.`), wrong && h('span.tone-bad', ` ${wrong}`)));
}

function proposal(scope, resolved, redraw) {
  const { list: changed, wrong } = changes();
  const own = scope === '*' ? 'every service that has no policy of its own for it' : scope;
  const words = (setting, value) => (value === undefined || value === null ? `${setting.default} (not set here)` : written(setting, value));
  const isReadOnly = state.hello && !state.hello.takesWrites;
  const canApply = changed.length > 0 && !wrong.length && !editor.busy && !isReadOnly;
  return h('section.sheet.proposal', h('h2', 'Proposed'),
    !changed.length && !wrong.length && h('p.quiet', 'Change a setting, and what comes of it stands here before anything is done.'),
    changed.length > 0 && h('p', `${plural(changed.length, 'setting')} for ${own}:`),
    h('dl.diff', changed.map(([setting, value]) => h('div', h('dt', h('code', setting.path)), h('dd', h('del', words(setting, valueIn(editor.base, setting))), ' → ', h('ins', words(setting, value)))))),
    wrong.length > 0 && h('ul.errors', wrong.map(([, text]) => h('li.tone-bad', text))),
    h('h3', 'Worst case'), h('p', worstCase(resolved, changed)),
    scope !== '*' && h('div', h('button', { type: 'button', disabled: editor.busy || wrong.length > 0 || !changed.some(([{ path: name }]) => name.startsWith('breaker.')), onclick: () => askWhatIf(scope, changed, redraw) }, 'What if? Replay the last minutes')),
    editor.whatIf && replay(editor.whatIf),
    h('label.stacked', h('span', 'Why'), h('input', { value: editor.reason, maxlength: 200, oninput: (event) => { editor.reason = event.target.value; redraw(); }, autocomplete: 'off' })),
    changed.length > 0 && lines(scope, changed).map((text) => command(text, copy)),
    editor.said && h('p', { class: editor.said.isWrong ? 'problem' : 'done', role: editor.said.isWrong ? 'alert' : 'status' }, editor.said.text),
    isReadOnly && h('p.problem', 'This control plane takes no changes from web pages. Use the line above.'),
    h('div.buttons', h('button.primary', { type: 'button', disabled: !canApply, onclick: () => apply(scope, changed, false, redraw) }, 'Apply'),
      h('button', { type: 'button', disabled: !changed.length || wrong.length > 0 || editor.busy || isReadOnly, onclick: () => apply(scope, changed, true, redraw) }, 'Dry run'),
      h('button', { type: 'button', disabled: !editor.edits.size, onclick: () => { begin(scope); redraw(); } }, 'Discard')));
}

function lines(scope, changed) {
  const why = editor.reason ? ['--reason', editor.reason] : [];
  const set = changed.filter(([, value]) => value !== null).map(([setting, value]) => `${setting.path}=${written(setting, value).replaceAll(' ', '')}`);
  const unset = changed.filter(([, value]) => value === null).map(([setting]) => setting.path);
  return [set.length && gwctl('policy', 'set', scope, ...set, ...why), unset.length && gwctl('policy', 'unset', scope, ...unset, ...why)].filter(Boolean);
}

// How long a request may take at most, by what would hold then.
function worstCase(resolved, changed) {
  if (!resolved) return 'Asking for what holds.';
  const find = (name) => settings.find((setting) => setting.path === name);
  const value = (name) => {
    const setting = find(name);
    if (!setting) return undefined;
    const proposed = changed.find(([one]) => one === setting);
    return proposed && proposed[1] !== null ? proposed[1] : proposed ? read(setting, setting.default) : valueIn(resolved.policy, setting);
  };
  const ms = (name) => parseFloat(value(name)) * 1000;
  const [request, perTry, retries] = [ms('timeout.request'), ms('timeout.per_try'), count(value('retry.max_retry_count'))];
  let pauses = 0;
  for (let index = 0; index < retries; index += 1) pauses += Math.min(ms('retry.base_backoff') * 2 ** index, ms('retry.max_backoff'));
  const attempts = (retries + 1) * perTry + pauses;
  if ([request, perTry, pauses].some(Number.isNaN)) return 'Not known.';
  const all = `${plural(retries + 1, 'attempt')} of up to ${duration(perTry)} each${retries ? `, with pauses of up to ${duration(Math.round(pauses))} in all` : ''}: ${duration(Math.round(attempts))}`;
  return attempts > request
    ? `${all}. timeout.request cuts that at ${duration(request)}: a client waits no longer for the first byte, and later attempts may not come to their end.`
    : `${all}. That fits into timeout.request of ${duration(request)}.`;
}

async function apply(scope, changed, isDryRun, redraw) {
  Object.assign(editor, { busy: true, said: null });
  redraw();
  const url = path('v1', 'policies', scope);
  const before = editor.base;
  try {
    if (!before && state.policies.has(scope)) throw Object.assign(new Error(), { reason: 'ETAG_MISMATCH' });
    const query = { allowMissing: true, reason: editor.reason, author: 'dashboard', ...(isDryRun ? { dryRun: true } : { waitTimeout: '2s' }) };
    const { policy, rollout } = await patch(url, mergePatch(changed), { query, etag: before?.etag });
    if (isDryRun) {
      editor.said = { text: 'It would be taken. Nothing was changed.' };
    } else {
      const back = changed.map(([setting]) => [setting, valueIn(before, setting) ?? null]);
      const undo = async () => {
        try {
          await patch(url, mergePatch(back), { query: { author: 'dashboard', reason: 'undone' }, etag: policy.etag });
          toast('Undone.');
        } catch (problem) {
          toast(explain(problem), { tone: 'bad', seconds: 12 });
        }
      };
      begin(scope);
      editor.base = policy;
      state.policies.set(scope, policy);
      toast(`The policy of ${scope} is changed.${rollout ? ` ${rollout.ackedNodeCount} of ${plural(rollout.nodeCount, 'data plane')} ${rollout.ackedNodeCount === 1 ? 'has' : 'have'} it.` : ''}`, { undo });
      forget(`policy/${scope}`);
    }
  } catch (problem) {
    editor.said = { text: explain(problem), isWrong: true };
  }
  editor.busy = false;
  redraw();
}

async function askWhatIf(scope, changed, redraw) {
  editor.busy = true;
  redraw();
  const breaker = changed.filter(([setting]) => setting.path.startsWith('breaker.'));
  try {
    const own = { ...(editor.base?.breaker ?? {}) };
    for (const [setting, value] of breaker) own[setting.json[1]] = value ?? undefined;
    editor.whatIf = await post(`${path('v1', 'policies', scope)}:whatIf`, { breaker: own });
  } catch (problem) {
    editor.said = { text: explain(problem), isWrong: true };
  }
  editor.busy = false;
  redraw();
}

function replay({ summary, now, then, limits }) {
  const side = (name, one) => h('div', h('dt', name), h('dd', `${number(count(one?.tripCount))} trips, ${number(count(one?.shedFailureCount))} failures spared, ${number(count(one?.shedSuccessCount))} good answers forgone`,
    bar([{ value: count(one?.shedFailureCount), tone: 'good' }, { value: count(one?.shedSuccessCount), tone: 'bad' }], `${name}: failures spared and good answers forgone`)));
  return h('div.replay', h('p', summary), h('dl.diff', side('As it is', now), side('As proposed', then)), limits?.length > 0 && h('ul.quiet', limits.map((text) => h('li', text))));
}

// Who changed what, newest first, as far as the timeline reaches.
function history(scope, redraw) {
  const own = (event) => event.eventType.startsWith('POLICY_') && (event.service || '*') === scope;
  const { value } = polled(`history/${scope}`, () => list('/v1/events', { filter: 'event_type = POLICY_*', service: scope === '*' ? '' : scope, pageSize: 200 }), redraw, 10000);
  const all = new Map([...(value?.events ?? []), ...state.events.values()].filter(own).map((event) => [event.eventId, event]));
  const events = [...all.values()].sort((one, other) => instant(other.eventTime) - instant(one.eventTime)).slice(0, 20);
  return h('section.sheet.changes', h('h2', 'Changes'), !events.length && h('p.quiet', 'None since this control plane started.'),
    events.length > 0 && h('ol', events.map((event) => {
      const steps = Object.entries(JSON.parse(event.metadata?.changes || '{}'));
      const words = (text) => text ?? 'not set here';
      return h('li', { key: event.eventId }, h('p', h('time', { datetime: event.eventTime }, clock(instant(event.eventTime))), ' ', h('strong', event.actor), h('span.quiet', ` ${event.message}`)),
        h('dl.diff', steps.map(([setting, [before, after]]) => h('div', h('dt', h('code', setting)), h('dd', h('del', words(before)), ' → ', h('ins', words(after)))))),
        steps.some(takesBack) && h('button.small', { type: 'button', 'aria-label': `Take back what ${event.actor} changed ${clock(instant(event.eventTime))}`, onclick: () => takeBack(event, steps, redraw) }, 'Take back'));
    })));
}

// Whether a change can be taken back: faults end by themselves, and of a value that was cut nobody knows the rest.
const takesBack = ([setting, [before]]) => !setting.startsWith('fault.') && !before?.endsWith('…') && settings.some((one) => one.path === setting);

// Proposes what it was before. Nothing is done until somebody applies it.
function takeBack(event, steps, redraw) {
  for (const [name, [before]] of steps.filter(takesBack)) editor.edits.set(settings.find((one) => one.path === name), before === '""' ? '' : before);
  Object.assign(editor, { said: null, whatIf: null, reason: editor.reason || `takes back what ${event.actor} changed` });
  redraw();
}

function faults(scope) {
  return h('section.sheet', h('h2', 'Faults on purpose'), h('p.quiet', 'Faults end by themselves, and while they last they stand at the head of every page, with a button that ends them.'),
    command(gwctl('fault', 'set', scope, '--abort', '503', '--ratio', '0.1', '--for', '10m', '--reason', 'game day'), copy),
    scope !== '*' && link('#/policy/*', 'The policy of all services'));
}
