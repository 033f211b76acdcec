// Settings of a policy: their values as JSON, and as people write them. Both ways, and for every kind there is.

const UNITS = { ms: 1, s: 1000, m: 60000, min: 60000, h: 3600000, d: 86400000 };
const SIZES = { '': 1, B: 1, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3, TiB: 1024 ** 4 };

const HINTS = { duration: 'such as 250ms, 2s, 1m 30s', count: 'a whole number', number: 'a number', size: 'such as 64KiB, 10MiB', list: 'separated by commas', text: '', time: 'an instant', flag: '', choice: '' };

// The value that a policy has at a setting; undefined where it has none.
export function valueIn(policy, setting) {
  const value = setting.json.reduce((inner, name) => inner?.[name] ?? undefined, policy);
  return Array.isArray(value) && !value.length && setting.path !== 'request.upgrades' ? undefined : value;
}

// As people write it.
export function written(setting, value) {
  if (value === undefined || value === null) return '';
  switch (setting.kind) {
    case 'duration': return duration(parseFloat(value) * 1000);
    case 'size': return size(Number(value));
    case 'list': return value.join(',');
    case 'choice': return setting.choices.find(([, word]) => word === value)?.[0] ?? String(value);
    default: return String(value);
  }
}

export function duration(ms) {
  if (ms === 0) return '0s';
  const parts = [];
  let rest = Math.round(ms * 1000) / 1000;
  for (const unit of ['d', 'h', 'm', 's', 'ms']) {
    const whole = unit === 'ms' ? rest : Math.floor(rest / UNITS[unit]);
    if (whole > 0) parts.push(`${whole}${unit}`);
    rest -= whole * UNITS[unit];
  }
  return parts.join(' ');
}

function size(bytes) {
  for (const unit of ['TiB', 'GiB', 'MiB', 'KiB']) if (bytes >= SIZES[unit] && bytes % SIZES[unit] === 0) return `${bytes / SIZES[unit]}${unit}`;
  return `${bytes}B`;
}

// What a person wrote, as JSON. Throws with what it should be.
export function read(setting, text) {
  const wanted = () => new Error(`${setting.path}: ${HINTS[setting.kind] || setting.range}`);
  const whole = (pattern) => { if (!pattern.test(text.trim())) throw wanted(); };
  switch (setting.kind) {
    case 'duration': {
      whole(/^(\d+(\.\d+)?\s*(ms|s|min|m|h|d)\s*)+$/);
      let ms = 0;
      for (const [, amount, unit] of text.matchAll(/(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)/g)) ms += parseFloat(amount) * UNITS[unit];
      return `${ms / 1000}s`;
    }
    case 'count': whole(/^\d+$/); return Number(text);
    case 'number': whole(/^\d*\.?\d+$/); return Number(text);
    case 'size': {
      whole(/^\d+\s*(B|KiB|MiB|GiB|TiB)?$/);
      const [, amount, unit = ''] = text.trim().match(/^(\d+)\s*(\w*)$/);
      return String(Number(amount) * SIZES[unit]);
    }
    case 'flag': whole(/^(true|false)$/); return text.trim() === 'true';
    case 'list': return text.split(',').map((part) => part.trim()).filter(Boolean);
    case 'choice': {
      const choice = setting.choices.find(([name]) => name === text.trim());
      if (!choice) throw wanted();
      return choice[1];
    }
    default: return text.trim();
  }
}

// A merge patch of these values; null takes one out.
export function mergePatch(changes) {
  const patch = {};
  for (const [setting, value] of changes) {
    let inner = patch;
    for (const name of setting.json.slice(0, -1)) inner = inner[name] ??= {};
    inner[setting.json.at(-1)] = value;
  }
  return patch;
}
