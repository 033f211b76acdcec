// The one stream of the page: keeps it, notices when it falls silent, and says how old what is shown is.

import { list } from './api.js';
import * as session from './session.js';
import { addEvents, apply, replaceEvents, state } from './store.js';

// The server says something every second.
const SILENT_AFTER = 4000;
// A page that nobody sees gives its connection back: browsers have six for all pages of a server.
const HIDDEN_FOR = 60000;

export const link = { isUp: false, heardAt: 0, isPaused: false, problem: '' };
let source = null;
// Where the last stream came to, to go on from there.
let lastId = '';
let listener = () => {};
let hiding;

export function open(onNews) {
  listener = onNews;
  connect();
  setInterval(watchdog, 1000);
  addEventListener('online', reconnect);
  document.addEventListener('visibilitychange', () => {
    clearTimeout(hiding);
    if (document.hidden) hiding = setTimeout(close, HIDDEN_FOR);
    else if (!source) reconnect();
  });
}

// Whether what is shown is not current.
export const isStale = () => link.heardAt > 0 && (link.isPaused || Date.now() - link.heardAt > SILENT_AFTER);

export function pause(isPaused) {
  link.isPaused = isPaused;
  if (isPaused) close();
  else connect();
  listener([]);
}

// Not an EventSource, which cannot say who asks: its requests have no header of ours.
async function connect() {
  const own = new AbortController();
  source = own;
  try {
    await follow(own);
  } catch {
    // It broke, or was closed; both are told below.
  }
  if (source !== own) return;
  link.isUp = false;
  listener([]);
  if (!session.session.isAsked) setTimeout(() => source === own && reconnect(), 1000 + Math.random() * 500);
}

async function follow(own) {
  const headers = { ...session.headers(), accept: 'text/event-stream' };
  if (lastId) headers['last-event-id'] = lastId;
  const response = await fetch('/ui/stream', { headers, cache: 'no-store', signal: own.signal });
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    link.problem = problem.detail ?? `The control plane answered ${response.status}.`;
    if (response.status === 401 || response.status === 403) session.ask(problem);
    return;
  }
  for await (const { name, data, id } of events(response.body)) {
    if (source !== own) return;
    lastId = id ?? lastId;
    if (name === 'problem') link.problem = JSON.parse(data).detail;
    if (name === 'message' && data) hear(JSON.parse(data));
  }
}

function hear(frame) {
  const isNew = Boolean(frame.hello);
  Object.assign(link, { isUp: true, heardAt: Date.now(), problem: '' });
  const { heard, gap } = apply(frame);
  if (isNew || gap) history();
  listener(heard);
}

// Server-Sent Events out of the bytes of an answer.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
      const event = { name: 'message', data: '' };
      for (const line of text.slice(0, end).split('\n')) {
        const at = line.indexOf(':');
        const [field, said] = [line.slice(0, at), line.slice(at + 1).replace(/^ /, '')];
        if (field === 'event') event.name = said;
        if (field === 'data') event.data += said;
        if (field === 'id') event.id = said;
      }
      text = text.slice(end + 2);
      yield event;
    }
  }
}

function close() {
  const open = source;
  source = null;
  open?.abort();
  link.isUp = false;
}

export function reconnect() {
  if (link.isPaused) return;
  close();
  connect();
}

function watchdog() {
  const age = Date.now() - link.heardAt;
  // A peer that vanished without a word leaves the browser waiting for ever.
  if (link.isUp && !link.isPaused && link.heardAt && age > 3 * SILENT_AFTER) reconnect();
  listener([]);
}

// Events from before the stream, and from while it was broken.
async function history() {
  const before = state.events.size;
  try {
    const { events } = await list('/v1/events', { pageSize: 500 });
    const since = [...state.events.values()].slice(before);
    replaceEvents(events);
    addEvents(since.filter(({ eventId }) => !state.events.has(eventId)));
  } catch (problem) {
    link.problem = problem.message;
  }
  listener([]);
}
