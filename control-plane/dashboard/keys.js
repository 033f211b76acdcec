// The keyboard: where to go, what to do to the row that is chosen, and a list of all that.

import { isDialogOpen, openDialog } from './dialog.js';
import { h } from './dom.js';

const KEYS = [
  ['g o', 'Overview'], ['g b', 'Breakers'], ['g s', 'Services: the chosen one, or the worst'], ['g n', 'Data planes'], ['g e', 'Events'], ['g p', 'Policy for all services'], ['g l', 'Lab, in a demo'],
  ['/', 'Filter'], ['j  k', 'Next and previous row'], ['Enter', 'Open the chosen row'], ['d', 'Drain, or undrain, this replica'], ['b', 'Force the breaker of this replica open'],
  ['.', 'Pause and resume the stream'], ['t', 'Theme: automatic, light, dark'], ['c', 'Copy the line for a shell'], ['?', 'These keys'], ['Esc', 'Close, or leave the filter'],
];

// The end of a `g`, while its second key is waited for.
let going = null;

// `act(name)` does what a key stands for.
export function listen(act) {
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isDialogOpen()) return;
    const isTyping = event.target.matches('input, select, textarea');
    if (event.key === 'Escape' && isTyping) {
      event.target.blur();
      act('clear');
      return;
    }
    if (isTyping) return;
    const name = going ? `g ${event.key}` : event.key;
    // Each has its own time: that of one before must not end it.
    clearTimeout(going);
    going = !going && event.key === 'g' ? setTimeout(() => { going = null; }, 1500) : null;
    if (act(name)) event.preventDefault();
  });
}

export function help() {
  openDialog('Keys', (close) => [h('h2', 'Keys'), h('dl.keys', KEYS.map(([key, what]) => h('div', h('dt', key.split(' ').filter(Boolean).map((one) => h('kbd', one))), h('dd', what)))),
    h('div.buttons', h('button', { type: 'button', onclick: close, autofocus: true }, 'Close'))]);
}

// The rows that j and k go through: whatever leads somewhere.
export function step(direction) {
  const rows = [...document.querySelectorAll('main tr[data-open], main .tile-breaker, main .grid li li')];
  if (!rows.length) return false;
  const at = rows.findIndex((row) => row.contains(document.activeElement));
  const next = rows[Math.min(rows.length - 1, Math.max(0, at + direction))];
  next.querySelector('a[href]')?.focus();
  next.scrollIntoView({ block: 'nearest' });
  return true;
}
