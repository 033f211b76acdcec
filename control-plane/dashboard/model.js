// What follows from what the control plane told: replicas with their breakers, services with their replicas.

import { count, instant, span, word } from './format.js';
import { nameOf, now, recent, state } from './store.js';

// Each standing of a replica: how bad it is, and how it looks. Every one has a shape and a word beside its colour.
export const STANDINGS = {
  lost: { rank: 7, tone: 'bad', shape: 'cross', word: 'lost' },
  'forced-open': { rank: 6, tone: 'bad', shape: 'square', word: 'forced open' },
  open: { rank: 6, tone: 'bad', shape: 'square', word: 'open' },
  unhealthy: { rank: 5, tone: 'bad', shape: 'triangle', word: 'unhealthy' },
  failing: { rank: 5, tone: 'bad', shape: 'triangle', word: 'failing checks' },
  partly: { rank: 4, tone: 'warn', shape: 'half', word: 'partly open' },
  doubted: { rank: 4, tone: 'warn', shape: 'diamond', word: 'failing some checks' },
  probing: { rank: 4, tone: 'warn', shape: 'half', word: 'half-open' },
  degraded: { rank: 3, tone: 'warn', shape: 'diamond', word: 'degraded' },
  draining: { rank: 2, tone: 'calm', shape: 'ring', word: 'draining' },
  drained: { rank: 2, tone: 'calm', shape: 'ring', word: 'drained' },
  starting: { rank: 1, tone: 'calm', shape: 'ring', word: 'starting' },
  'forced-closed': { rank: 1, tone: 'warn', shape: 'disc', word: 'forced closed' },
  ready: { rank: 0, tone: 'good', shape: 'disc', word: 'ready' },
};

const STATE_RANK = { CLOSED: 0, FORCED_CLOSED: 1, HALF_OPEN: 2, OPEN: 3, FORCED_OPEN: 4 };

export const breakerState = (row) => String(row.state).replace('BREAKER_STATE_', '');
export const isClosed = (row) => ['CLOSED', 'UNSPECIFIED'].includes(breakerState(row));
export const isOpen = (row) => ['OPEN', 'FORCED_OPEN'].includes(breakerState(row));
export const rank = (row) => STATE_RANK[breakerState(row)] ?? 0;
export const worse = (one, other) => rank(other) - rank(one);

// Why a breaker is as it is. How one that is closed has opened last is over, and told as that.
export function why(row) {
  const trip = row.lastTrip;
  switch (breakerState(row)) {
    case 'OPEN': case 'HALF_OPEN': return row.reason;
    case 'FORCED_OPEN': case 'FORCED_CLOSED': return row.activeOverride?.reason;
    default: return trip && `last opened ${span(Math.floor(Math.max(0, now() - instant(trip.tripTime)) / 1000) * 1000)} ago: ${trip.reason}`;
  }
}

// A breaker's own word, for tiles and lists.
export const breakerWord = (row) => word(row.state, 'BREAKER_STATE_').replace('HALF OPEN', 'HALF-OPEN');

function standing(replica, rows) {
  const health = replica.health.replace('HEALTH_STATUS_', '');
  const mode = replica.mode.replace('REPLICA_MODE_', '');
  const merged = rows.find((row) => !row.nodeId);
  const total = merged ? merged.nodeCount : rows.length;
  const open = merged ? merged.openNodeCount : rows.filter(isOpen).length;
  if (health === 'LOST') return 'lost';
  if (rows.some((row) => breakerState(row) === 'FORCED_OPEN')) return 'forced-open';
  if (total > 0 && open === total) return 'open';
  if (health === 'UNHEALTHY') return 'unhealthy';
  const failing = rows.filter((row) => row.healthCheck?.state === 'HEALTH_CHECK_STATE_FAILING').length;
  if (failing > 0 && failing === rows.length) return 'failing';
  if (open > 0) return 'partly';
  if (failing > 0) return 'doubted';
  if (rows.some((row) => breakerState(row) === 'HALF_OPEN')) return 'probing';
  if (mode === 'DRAINING') return 'draining';
  if (mode === 'DRAINED') return 'drained';
  if (health === 'STARTING') return 'starting';
  if (health === 'DEGRADED') return 'degraded';
  if (rows.some((row) => breakerState(row) === 'FORCED_CLOSED')) return 'forced-closed';
  return 'ready';
}

// Whether it is given requests, as the registry sees it.
export const isReady = (replica) =>
  ['HEALTH_STATUS_HEALTHY', 'HEALTH_STATUS_DEGRADED'].includes(replica.health)
  && ['REPLICA_MODE_SERVING', 'REPLICA_MODE_UNSPECIFIED'].includes(replica.mode);

// Everything, once for each look: services with their replicas, each with its breakers.
export function survey() {
  const byReplica = new Map();
  for (const row of state.breakers.values()) {
    const name = nameOf(row);
    if (!byReplica.has(name)) byReplica.set(name, []);
    byReplica.get(name).push(row);
  }
  const services = new Map();
  for (const [name, replica] of state.replicas) {
    const rows = (byReplica.get(name) ?? []).sort((one, other) => worse(one, other) || (one.nodeId < other.nodeId ? -1 : 1));
    const seen = { name, replica, rows, standing: standing(replica, rows) };
    if (!services.has(replica.service)) services.set(replica.service, { service: replica.service, replicas: [] });
    services.get(replica.service).replicas.push(seen);
  }
  for (const service of services.values()) describe(service);
  return services;
}

function describe(service) {
  service.replicas.sort((one, other) => (one.name < other.name ? -1 : 1));
  const { replicas } = service;
  service.total = replicas.length;
  service.ready = replicas.filter(({ replica }) => isReady(replica)).length;
  service.open = replicas.reduce((sum, { rows }) => sum + rows.filter((row) => !isClosed(row) && breakerState(row) !== 'FORCED_CLOSED').length, 0);
  service.out = replicas.filter(({ standing: own }) => STANDINGS[own].rank >= 5).length;
  // Where it fails open, replicas are asked although their breakers are open or their checks fail.
  service.panics = replicas.some(({ rows }) => rows.some((row) => row.askedRegardless));
  service.worst = Math.max(...replicas.map(({ standing: own }) => STANDINGS[own].rank));
  const traffic = recent(service.service);
  service.traffic = traffic;
  service.success = traffic.rate > 0 ? 1 - traffic.failures / traffic.rate : undefined;
  let [attempts, failed] = [0, 0];
  for (const { name } of replicas) {
    const own = recent(name);
    attempts += own.rate;
    failed += own.failures;
  }
  // What no replica was asked for has failed as well: without retries no more would have succeeded.
  service.before = attempts > 0 && service.success !== undefined ? Math.min(service.success, 1 - failed / attempts) : undefined;
  const policy = state.policies.get(service.service);
  service.policy = policy ? 'own' : state.policies.has('*') ? '*' : 'default';
  service.verdict = verdict(service);
}

function verdict({ total, ready, out, open, success, worst }) {
  if (out === total) return { tone: 'bad', shape: 'square', word: 'down', rank: 9 };
  if (success !== undefined && success < 0.99) return { tone: 'bad', shape: 'triangle', word: 'failing', rank: 8 };
  if (out > 0 || open > 0) return { tone: 'warn', shape: 'half', word: 'impaired', rank: 6 };
  if (ready < total) return { tone: 'calm', shape: 'ring', word: ready ? 'reduced' : 'no replica ready', rank: ready ? 3 : 7 };
  if (worst >= 3) return { tone: 'warn', shape: 'diamond', word: 'degraded', rank: 4 };
  return { tone: 'good', shape: 'disc', word: 'healthy', rank: 0 };
}

// How a data plane stands, and for how long it has said nothing.
export function nodeStanding(node) {
  const silent = now() - (instant(node.lastReportTime) ?? instant(node.connectTime) ?? now());
  switch (node.state) {
    case 'NODE_STATE_NACKED': return { tone: 'bad', shape: 'triangle', word: 'REFUSED', silent };
    case 'NODE_STATE_DISCONNECTED': return { tone: 'bad', shape: 'cross', word: 'SILENT', silent };
    case 'NODE_STATE_UNKNOWN': return { tone: 'bad', shape: 'ring', word: 'UNKNOWN', silent };
    case 'NODE_STATE_OUTDATED': return { tone: 'bad', shape: 'half', word: 'OUTDATED', silent };
    case 'NODE_STATE_LAGGING': return { tone: 'warn', shape: 'half', word: 'LAGGING', silent };
    default: return silent > 15000
      ? { tone: 'bad', shape: 'cross', word: 'SILENT', silent }
      : { tone: 'good', shape: 'disc', word: 'SYNCED', silent };
  }
}

// What people decided against the rules and what is injected on purpose, while it lasts.
export function inForce() {
  const list = [];
  for (const entry of state.overrides) {
    const until = instant(entry.expireTime);
    if (until > now()) list.push({ kind: 'override', entry, until, key: entry.overrideId, what: overrideWords(entry), reason: entry.reason, author: entry.author });
  }
  for (const replica of state.replicas.values()) {
    const isDraining = replica.mode === 'REPLICA_MODE_DRAINING';
    if (!isDraining && replica.mode !== 'REPLICA_MODE_DRAINED') continue;
    list.push({ kind: 'drain', replica, until: isDraining ? instant(replica.drain?.deadlineTime) : undefined, key: `drain/${nameOf(replica)}`, what: `${nameOf(replica)} ${isDraining ? 'draining' : 'drained'}`, reason: replica.drain?.reason, author: replica.drain?.author });
  }
  for (const policy of state.policies.values()) {
    const until = instant(policy.fault?.endTime);
    if (until > now()) list.push({ kind: 'fault', policy, until, key: `fault/${policy.service}`, what: `${policy.service === '*' ? 'all services' : policy.service}: ${faultWords(policy.fault)}`, reason: policy.faultOrigin?.reason, author: policy.faultOrigin?.author });
  }
  return list.sort((one, other) => (one.until ?? Infinity) - (other.until ?? Infinity));
}

export function faultWords(fault) {
  const share = (ratio) => `${Math.round((ratio ?? 1) * 1000) / 10}%`;
  const parts = [];
  if (fault.delayRatio > 0) parts.push(`${share(fault.delayRatio)} held for ${fault.delay}`);
  if (fault.abortRatio > 0) parts.push(`${share(fault.abortRatio)} answered ${fault.abortStatus}`);
  if (fault.resetRatio > 0) parts.push(`${share(fault.resetRatio)} reset`);
  return `faults: ${parts.join(', ') || 'none'}`;
}

function overrideWords(entry) {
  const where = entry.replicaId && entry.replicaId !== '-' ? `${entry.service}/${entry.replicaId}` : `${entry.service}, all replicas`;
  const on = entry.nodeId ? ` on ${entry.nodeId}` : '';
  const kind = word(entry.kind, 'OVERRIDE_KIND_').toLowerCase();
  const said = { 'breaker open': 'forced open', 'breaker closed': 'forced closed' }[kind] ?? kind;
  return `${where} ${said}${on}`;
}

export const trips = (rows) => rows.reduce((sum, row) => sum + count(row.tripCount), 0);
