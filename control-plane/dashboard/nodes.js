// The data planes: who follows the registry, how far, and who does not.

import { copy } from './dialog.js';
import { h } from './dom.js';
import { clock, instant, number, plural, span } from './format.js';
import { nodeStanding } from './model.js';
import { column, command, empty, standingWord, table } from './parts.js';
import { now, state } from './store.js';
import { gwctl } from './actions.js';

export const title = 'Data planes';

export function view({ filter, filterField }) {
  const nodes = [...state.nodes.values()].filter(({ nodeId }) => nodeId.includes(filter)).map((node) => ({ node, standing: nodeStanding(node) }));
  const bad = { bad: 0, warn: 1, good: 2 };
  nodes.sort((one, other) => bad[one.standing.tone] - bad[other.standing.tone] || (one.node.nodeId < other.node.nodeId ? -1 : 1));
  const versions = new Map();
  for (const { version } of state.nodes.values()) versions.set(version, (versions.get(version) ?? 0) + 1);
  return [
    h('div.bar-row', h('h1', 'Data planes'), filterField('Filter data planes'),
      h('span.quiet.end', `The registry is at revision ${number(Number(state.revision))}`)),
    versions.size > 1 && h('p.warning', `${versions.size} versions run at once: ${[...versions].map(([version, amount]) => `${version || 'unknown'} on ${amount}`).join(', ')}. The control plane is ${state.hello?.version}.`),
    !state.nodes.size && empty('No data plane is connected.', 'Requests are routed by data planes. Start one that follows this control plane:', h('code', `gw-data-plane --control-plane ${location.origin}`)),
    nodes.length > 0 && table('Data planes', [column('State'), column('Data plane'), column('Acked', { class: 'number' }), column('Behind', { class: 'number' }), column('Last heard', { class: 'number' }), column('Open breakers', { class: 'number' }), column('Held replicas', { class: 'number' }), column('Version'), column('Connected'), column('Control plane'), column('Left')], nodes.map(row)),
    nodes.some(({ standing }) => standing.word === 'OUTDATED') && h('p.warning', 'This control plane has lost touch with its store: the registry may be further than it knows, and its data planes go over to another control plane that has not, if there is one.'),
    nodes.filter(({ node }) => node.nack).map(({ node }) => h('section.refusal', { key: `nack/${node.nodeId}` }, h('h2', `${node.nodeId} refused what it was sent`),
      h('p', 'It goes on with what it had, and is told again with the next change.'), h('pre', refusal(node.nack)))),
    h('section', h('h2', 'The same in a shell'), command(gwctl('get', 'nodes'), copy)),
  ];
}

// Why a data plane left a control plane; reasons that only a newer one gives stay as they are.
const WHY_LEFT = {
  outdated: 'it had lost touch with its store',
  closed: 'it ended the stream',
  failed: 'the stream failed',
  silent: 'it said nothing any more',
  not_read: 'it read no answers',
  behind: 'it was behind',
  refused: 'its updates could not be taken',
};
const leftWords = ({ url, reason, leaveTime }) => `${url}${leaveTime ? ` at ${clock(instant(leaveTime))}` : ''}: ${WHY_LEFT[reason] ?? reason}`;

const refusal = (nack) => [nack.message, nack.reason, ...(nack.violations ?? []).map((violation) => JSON.stringify(violation))].filter(Boolean).join('\n') || JSON.stringify(nack);

function row({ node, standing }) {
  const behind = Number(state.revision) - Number(node.ackedRevision);
  const isSilent = standing.word === 'SILENT';
  return h('tr', { key: node.nodeId, class: isSilent && 'stale' },
    h('td', standingWord(standing, isSilent ? `SILENT for ${span(standing.silent)}` : standing.word)),
    h('th', { scope: 'row' }, h('code', node.nodeId)),
    h('td.number', node.ackedRevision), h('td.number', { class: behind > 0 && 'tone-warn' }, behind > 0 ? plural(behind, 'revision') : '0'),
    h('td.number', node.lastReportTime ? `${span(Math.max(0, Math.floor((now() - instant(node.lastReportTime)) / 1000) * 1000))} ago` : 'never'),
    h('td.number', { class: node.openBreakerCount > 0 && 'tone-bad' }, node.openBreakerCount), h('td.number', node.heldReplicaCount),
    h('td', { class: node.version !== state.hello?.version && 'tone-warn' }, node.version || 'unknown'),
    h('td', node.connectTime ? clock(instant(node.connectTime)) : '–'),
    h('td', node.controlPlane || '–'),
    h('td', node.left ? leftWords(node.left) : '–'));
}
