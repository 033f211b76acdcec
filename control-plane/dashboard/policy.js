import { h } from './dom.js';
export const title = 'policy';
export function view() { return [h('h1', 'policy')]; }
