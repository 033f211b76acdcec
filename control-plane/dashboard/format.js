// Numbers, times and the contract's words, as people read them.

// "1.5s" of proto3 JSON, in milliseconds; undefined where there is none.
export const millis = (text) => (typeof text === 'string' && text.endsWith('s') ? parseFloat(text) * 1000 : undefined);

export const instant = (text) => (text ? Date.parse(text) : undefined);
// The same of an address, which anybody may have written: only what dates can be made of.
export const moment = (text) => { const at = instant(text); return Math.abs(at) < 8e15 ? at : undefined; };

export const count = (value) => Number(value ?? 0);

const GROUPED = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

export function number(value) {
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (value >= 1e5) return `${Math.round(value / 1e3)}k`;
  return GROUPED.format(value);
}

export function rate(value) {
  if (value === undefined) return '–';
  if (value === 0) return '0';
  return value < 9.95 ? value.toFixed(1) : number(value);
}

// Of a share that nearly reaches 1, as many digits as tell it from 1: 99.98 % is not 100 %.
export function percent(share) {
  if (share === undefined || Number.isNaN(share)) return '–';
  if (share === 1) return '100%';
  const digits = share > 0.9995 ? 3 : share > 0.99 ? 2 : 1;
  const text = Math.min(share * 100, 100 - 10 ** -digits).toFixed(digits);
  return `${text}%`;
}

// A span: 250ms, 4.2s, 3m 10s, 2h 5m, 4d.
export function span(ms, { exact = false } = {}) {
  if (ms === undefined || Number.isNaN(ms)) return '–';
  if (ms < 1000) return exact || ms >= 1 ? `${Math.round(ms)}ms` : ms > 0 ? '<1ms' : '0ms';
  const seconds = ms / 1000;
  if (seconds < 10 && !Number.isInteger(seconds)) return `${seconds.toFixed(1)}s`;
  if (seconds < 60) return `${Math.floor(seconds)}s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return join(minutes, 'm', Math.floor(seconds % 60), 's');
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return join(hours, 'h', minutes % 60, 'm');
  return join(Math.floor(hours / 24), 'd', hours % 24, 'h');
}

const join = (large, unit, small, lesser) => (small ? `${large}${unit} ${small}${lesser}` : `${large}${unit}`);

// Whole seconds left, for a countdown that must not flicker.
export function left(ms) {
  if (ms === undefined) return '–';
  return ms <= 0 ? 'now' : span(Math.ceil(ms / 1000) * 1000);
}

export function latency(ms) {
  if (ms === undefined) return '–';
  if (ms < 1) return `${ms.toFixed(2)}ms`;
  if (ms < 10) return `${ms.toFixed(1)}ms`;
  return ms < 1000 ? `${Math.round(ms)}ms` : `${(ms / 1000).toFixed(1)}s`;
}

export function clock(ms) {
  const at = new Date(ms);
  const two = (value) => String(value).padStart(2, '0');
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  const isToday = new Date().toDateString() === at.toDateString();
  return isToday ? time : `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}`;
}

// BREAKER_STATE_FORCED_OPEN to FORCED OPEN.
export const word = (value, prefix) => String(value ?? '').replace(prefix, '').replaceAll('_', ' ');

export const plural = (amount, one, many = `${one}s`) => `${number(amount)} ${amount === 1 ? one : many}`;

// A word of a shell's command line.
export const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);
