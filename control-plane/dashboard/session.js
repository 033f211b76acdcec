// Who reads this page: a token, kept for as long as the tab is open, sent as a header and never in a URL.

import { h } from './dom.js';

const KEY = 'gateway-token';

// Whether the control plane asks who reads, and what it said of the last answer.
export const session = { isAsked: false, problem: '' };
let listener = () => {};

export const listen = (onSignIn) => { listener = onSignIn; };
export const isSignedIn = () => sessionStorage.getItem(KEY) !== null;

export function headers() {
  const token = sessionStorage.getItem(KEY);
  return token ? { authorization: `Bearer ${token}` } : {};
}

// The control plane wants to know who asks, or does not know the token.
export function ask(document) {
  session.isAsked = true;
  session.problem = isSignedIn() ? document.detail ?? '' : '';
  listener();
}

function signIn(event) {
  event.preventDefault();
  const field = document.getElementById('token');
  const token = field.value.trim();
  // A header may have nothing else, and a token has nothing else.
  if (!/^[\x21-\x7e]+$/.test(token)) {
    session.problem = 'A token is one word of visible ASCII.';
    listener();
    return;
  }
  field.value = '';
  sessionStorage.setItem(KEY, token);
  Object.assign(session, { isAsked: false, problem: '' });
  listener(true);
}

export function signOut() {
  sessionStorage.removeItem(KEY);
  // What was shown was for who was signed in.
  location.reload();
}

export function form() {
  return h('form.sign-in', { onsubmit: signIn, autocomplete: 'off' },
    h('h1', 'Who are you?'),
    h('p', 'This control plane shows nothing to strangers. Its operators make tokens with ', h('code', 'gwctl auth token'), '.'),
    h('label', { for: 'token' }, 'Token'),
    h('input', { id: 'token', type: 'password', autocomplete: 'off', spellcheck: 'false', autofocus: true, required: true, 'aria-describedby': 'sign-in-problem' }),
    h('p.tone-bad', { id: 'sign-in-problem', role: 'alert' }, session.problem),
    h('button', { type: 'submit' }, 'Sign in'),
    h('p.quiet', 'It is kept until this tab is closed.'));
}
