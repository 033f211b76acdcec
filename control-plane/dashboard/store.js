// What the page knows, as the control plane told it last. Views read it; the stream alone writes to it.

import { count, instant } from './format.js';

export const SECONDS = 60;

export const state = {
  hello: null,
  // Wall clock of the server less ours, in milliseconds.
  skew: 0,
  revision: 0,
  replicas: new Map(),
  breakers: new Map(),
  nodes: new Map(),
  // Other control planes that do not tell what their data planes report.
  silent: [],
  overrides: [],
  policies: new Map(),
  // By event id, oldest first.
  events: new Map(),
  // Statistics by service, and by service and replica: a row a second.
  series: new Map(),
  rows: new Map(),
  statsNodes: 0,
  stats: null,
};

const MAX_EVENTS = 2000;
let pendingReplicas = null;
let pendingBreakers = null;
let sequence = 0;
// How many seconds of statistics the page has seen.
export const seen = () => Math.min(SECONDS, sequence);

export const now = () => Date.now() + state.skew;
export const nameOf = (row) => `${row.service}/${row.replicaId}`;

// Applies one event of the stream. Yields what changed that somebody may want to hear of.
export function apply(frame) {
  const heard = [];
  state.skew = frame.now - Date.now();
  if (frame.hello) {
    state.hello = frame.hello;
    pendingReplicas = null;
    // Breakers and nodes are told from the start on every connection.
    pendingBreakers = new Map();
    state.nodes.clear();
    state.silent = [];
  }
  for (const message of frame.replicas ?? []) applyReplica(message);
  for (const message of frame.breakers ?? []) applyBreaker(message, heard);
  if (frame.nodes) {
    for (const node of frame.nodes.changed) state.nodes.set(node.nodeId, node);
    for (const id of frame.nodes.gone) state.nodes.delete(id);
  }
  if (frame.silent) state.silent = frame.silent;
  if (frame.overrides) state.overrides = frame.overrides;
  if (frame.policies) state.policies = new Map(frame.policies.map((policy) => [policy.service, policy]));
  if (frame.revision !== undefined) state.revision = frame.revision;
  for (const message of frame.stats ?? []) applyStats(message);
  let gap = false;
  for (const message of frame.events ?? []) {
    gap ||= message.gap;
    addEvents(message.events ?? []);
  }
  return { heard, gap };
}

function applyReplica({ changeType, replica }) {
  const target = pendingReplicas ?? state.replicas;
  switch (changeType) {
    case 'CHANGE_TYPE_RESET':
      pendingReplicas = new Map();
      break;
    case 'CHANGE_TYPE_DELETED':
      target.delete(nameOf(replica));
      break;
    case 'CHANGE_TYPE_BOOKMARK':
      if (pendingReplicas) [state.replicas, pendingReplicas] = [pendingReplicas, null];
      break;
    default:
      target.set(nameOf(replica), replica);
  }
}

function applyBreaker({ changeType, breaker }, heard) {
  const target = pendingBreakers ?? state.breakers;
  switch (changeType) {
    case 'CHANGE_TYPE_RESET':
      pendingBreakers = new Map();
      break;
    case 'CHANGE_TYPE_DELETED':
      target.delete(`${nameOf(breaker)}/${breaker.nodeId}`);
      break;
    case 'CHANGE_TYPE_BOOKMARK':
      if (pendingBreakers) [state.breakers, pendingBreakers] = [pendingBreakers, null];
      break;
    default: {
      const key = `${nameOf(breaker)}/${breaker.nodeId}`;
      const before = state.breakers.get(key);
      if (before && before.state !== breaker.state) heard.push(breaker);
      target.set(key, breaker);
    }
  }
}

function applyStats({ endTime, interval, stats, nodeCount }) {
  const seconds = parseFloat(interval) || 1;
  sequence += 1;
  state.statsNodes = nodeCount;
  state.stats = { at: instant(endTime), seconds };
  state.rows = new Map();
  for (const row of stats) {
    const key = row.replicaId ? nameOf(row) : row.service;
    state.rows.set(key, row);
    if (!state.series.has(key)) state.series.set(key, []);
    state.series.get(key).push({
      sequence,
      rate: count(row.requestCount) / seconds,
      failures: count(row.failureCount) / seconds,
      retries: count(row.retryCount) / seconds,
      p50: row.latencyP50,
      p99: row.latencyP99,
    });
  }
  for (const [key, series] of state.series) {
    while (series.length && series[0].sequence <= sequence - SECONDS) series.shift();
    if (!series.length) state.series.delete(key);
  }
}

// The last minute of a service or a replica, a number for each second, zeros where nothing happened.
export function minute(key) {
  const points = Array.from({ length: SECONDS }, () => ({ rate: 0, failures: 0, retries: 0 }));
  for (const point of state.series.get(key) ?? []) {
    const index = SECONDS - 1 - (sequence - point.sequence);
    if (index >= 0) points[index] = point;
  }
  return points;
}

// Rates over the last seconds of a service or a replica, and its latencies as told last.
export function recent(key, seconds = 10) {
  const known = Math.max(1, Math.min(seconds, sequence));
  const sums = { rate: 0, failures: 0, retries: 0, p50: undefined, p99: undefined };
  const series = state.series.get(key) ?? [];
  for (let index = series.length - 1; index >= 0 && series[index].sequence > sequence - seconds; index -= 1) {
    const point = series[index];
    sums.rate += point.rate / known;
    sums.failures += point.failures / known;
    sums.retries += point.retries / known;
    sums.p50 ??= point.p50;
    sums.p99 ??= point.p99;
  }
  return sums;
}

export function addEvents(events) {
  for (const event of events) {
    // A folded event comes again under a new id: the older one says less.
    if (event.repeatCount > 0) {
      for (const [id, other] of state.events) if (isFoldOf(event, other)) state.events.delete(id);
    }
    state.events.set(event.eventId, event);
  }
  const excess = state.events.size - MAX_EVENTS;
  let removed = 0;
  for (const id of state.events.keys()) if (removed++ < excess) state.events.delete(id); else break;
}

// Whether an event tells again, with what came since, what another one told.
export function isFoldOf(event, other) {
  return other.repeatCount < event.repeatCount && (other.firstTime ?? other.eventTime) === event.firstTime
    && ['eventType', 'service', 'replicaId', 'nodeId', 'actor'].every((name) => other[name] === event[name]);
}

export function replaceEvents(events) {
  state.events = new Map([...events].reverse().map((event) => [event.eventId, event]));
}
