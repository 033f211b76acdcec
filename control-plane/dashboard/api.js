// Requests to /v1. A refusal becomes an Error with what the server says of it.

import * as session from './session.js';

export class Problem extends Error {
  constructor(status, document) {
    super(document.detail || document.title || `The control plane answered ${status}.`);
    Object.assign(this, { status, reason: document.reason, violations: document.violations ?? [] });
  }
}

async function ask(method, path, { query = {}, body, headers = {}, type = 'application/json' } = {}) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value !== undefined && value !== '') search.append(name, value);
  const url = search.size ? `${path}?${search}` : path;
  const options = { method, headers: { ...session.headers(), ...headers }, cache: 'no-store' };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers['content-type'] = type;
  }
  let response;
  try {
    response = await fetch(url, options);
  } catch {
    throw new Problem(0, { detail: 'The control plane does not answer. Nothing is known of whether this was done.' });
  }
  const document = await response.json().catch(() => ({}));
  if (response.status === 401) session.ask(document);
  if (!response.ok) throw new Problem(response.status, document);
  return document;
}

export const list = (path, query) => ask('GET', path, { query });
export const post = (path, body = {}) => ask('POST', path, { body });
export const remove = (path, query) => ask('DELETE', path, { query });
export const patch = (path, body, { query, etag }) =>
  ask('PATCH', path, { query, body, type: 'application/merge-patch+json', headers: etag ? { 'if-match': `"${etag}"` } : {} });

// A path of parts that may be anything.
export const path = (...parts) => `/${parts.map(encodeURIComponent).join('/')}`;
