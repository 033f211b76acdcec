// The one stream of the page: keeps it, notices when it falls silent, and says how old what is shown is.

import { list } from './api.js';
import { addEvents, apply, replaceEvents, state } from './store.js';

// The server says something every second.
const SILENT_AFTER = 4000;
// A page that nobody sees gives its connection back: browsers have six for all pages of a server.
const HIDDEN_FOR = 60000;

export const link = { isUp: false, heardAt: 0, isPaused: false, problem: '' };
let source = null;
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

function connect() {
  source = new EventSource('/ui/stream');
  source.onmessage = ({ data }) => {
    const frame = JSON.parse(data);
    const isNew = Boolean(frame.hello);
    Object.assign(link, { isUp: true, heardAt: Date.now(), problem: '' });
    const { heard, gap } = apply(frame);
    if (isNew || gap) history();
    listener(heard);
  };
  source.addEventListener('problem', ({ data }) => {
    link.problem = JSON.parse(data).detail;
  });
  source.onerror = () => {
    link.isUp = false;
    // The browser tries again by itself, unless the server has turned it away.
    if (source?.readyState === EventSource.CLOSED) setTimeout(reconnect, 2000);
    listener([]);
  };
}

function close() {
  source?.close();
  source = null;
  link.isUp = false;
}

function reconnect() {
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
