// Answers to questions that no stream tells: asked when a view shows them, and again while it does.

import { now } from './store.js';

const MAX_KEPT = 12;
const kept = new Map();

// What is known of `key`: {value, problem, isLoading}. Asks when that is older than `every` milliseconds.
export function polled(key, load, redraw, every = 2000) {
  let entry = kept.get(key);
  if (!entry) {
    entry = { value: undefined, problem: undefined, at: 0, isLoading: false };
    kept.set(key, entry);
    for (const old of [...kept.keys()].slice(0, Math.max(0, kept.size - MAX_KEPT))) kept.delete(old);
  }
  if (!entry.isLoading && now() - entry.at > every) {
    entry.isLoading = true;
    load().then(
      (value) => Object.assign(entry, { value, problem: undefined }),
      (problem) => Object.assign(entry, { problem }),
    ).finally(() => {
      Object.assign(entry, { at: now(), isLoading: false });
      redraw();
    });
  }
  return entry;
}

// Asks again at the next look.
export const forget = (key) => kept.delete(key);
