// Dialogs and toasts. A dialog is the browser's own, which keeps the focus inside it and gives it back.

import { h, render } from './dom.js';

const announced = { at: 0, waiting: null };

// Opens a dialog. `content(close)` yields its children; it is drawn again by calling the function this yields.
export function openDialog(label, content) {
  const element = document.createElement('dialog');
  element.setAttribute('aria-label', label);
  document.body.append(element);
  const close = () => element.close();
  const draw = () => render(element, ...content(close));
  draw();
  element.addEventListener('close', () => element.remove());
  // A click beside it, on what is behind, is for leaving.
  element.addEventListener('click', (event) => event.target === element && close());
  element.showModal();
  return draw;
}

export const isDialogOpen = () => document.querySelector('dialog[open]') !== null;

let toasts = [];
let nextToast = 0;

// Shows a message for a while; with an undo, for ten seconds.
export function toast(text, { undo, tone, seconds = undo ? 10 : 5 } = {}) {
  const own = { id: (nextToast += 1), text, undo, tone, until: Date.now() + seconds * 1000 };
  toasts = [...toasts.slice(-3), own];
  announce(text);
  drawToasts();
}

export function drawToasts() {
  toasts = toasts.filter(({ until }) => until > Date.now());
  const drop = (own) => {
    toasts = toasts.filter((other) => other !== own);
    drawToasts();
  };
  render(document.getElementById('toasts'), toasts.map((own) => h('div.toast', { key: own.id, class: own.tone && `tone-${own.tone}` },
    h('span', own.text),
    own.undo && h('button', { type: 'button', onclick: () => { drop(own); own.undo(); } }, `Undo (${Math.max(1, Math.ceil((own.until - Date.now()) / 1000))})`),
    h('button.plain', { type: 'button', 'aria-label': 'Dismiss', onclick: () => drop(own) }, '×'))));
}

// Says something to readers of the screen, at most every five seconds; of what comes between, the last.
export function announce(text) {
  announced.waiting = text;
  const rest = announced.at + 5000 - Date.now();
  if (rest <= 0) say();
  else setTimeout(say, rest);
}

function say() {
  if (announced.waiting === null) return;
  document.getElementById('live').textContent = announced.waiting;
  Object.assign(announced, { at: Date.now(), waiting: null });
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast('Copied.', { seconds: 2 });
  } catch {
    // Where the page is not from this machine or by TLS, browsers give no clipboard.
    openDialog('Copy', (close) => [h('h2', 'Copy this line'), h('textarea', { readonly: true, rows: 3, value: text }), h('div.buttons', h('button', { type: 'button', onclick: close }, 'Close'))]);
  }
}
