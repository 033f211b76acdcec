// A tree of plain objects, and the least changes that make the page show it. Elements stay the same from one look to
// the next, so focus, selection and scrolling do. Text is only ever text: there is no way to write markup here.

const SVG = 'http://www.w3.org/2000/svg';
const PROPERTIES = new Set(['value', 'checked', 'disabled', 'indeterminate', 'selected', 'open', 'hidden']);

// h('td.number', {title: 'x', onclick: f, key: 'r-1'}, children…): children are texts, numbers, nodes, lists, or nothing.
export function h(selector, props, ...children) {
  const isProps = props && typeof props === 'object' && !Array.isArray(props) && !props.tag;
  const [tag, ...classes] = selector.split('.');
  const all = isProps ? children : [props, ...children];
  const attrs = isProps ? { ...props } : {};
  const names = [...classes, attrs.class].filter(Boolean).join(' ');
  delete attrs.class;
  if (names) attrs.class = names;
  const { key } = attrs;
  delete attrs.key;
  return { tag: tag || 'div', attrs, key, children: flat(all) };
}

function flat(children) {
  const list = [];
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false || child === true || child === '') continue;
    list.push(typeof child === 'object' ? child : String(child));
  }
  return list;
}

// Makes the children of an element these.
export function render(parent, ...children) {
  reconcile(parent, flat(children), parent.namespaceURI === SVG);
}

function reconcile(parent, wanted, inSvg) {
  const keyed = new Map();
  for (const node of parent.childNodes) if (node.gwKey !== undefined) keyed.set(node.gwKey, node);
  let at = parent.firstChild;
  for (const item of wanted) {
    let node = item.key === undefined ? at : keyed.get(item.key);
    if (item.key === undefined && node && node.gwKey !== undefined) node = null;
    if (!node || !fits(node, item)) {
      node = create(item, inSvg);
      parent.insertBefore(node, at);
    } else if (node !== at) {
      parent.insertBefore(node, at);
    }
    update(node, item, inSvg);
    at = node.nextSibling;
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function fits(node, item) {
  if (typeof item === 'string') return node.nodeType === Node.TEXT_NODE;
  return node.nodeType === Node.ELEMENT_NODE && node.localName === item.tag && node.gwKey === item.key;
}

function create(item, inSvg) {
  if (typeof item === 'string') return document.createTextNode(item);
  const isSvg = inSvg || item.tag === 'svg';
  const node = isSvg ? document.createElementNS(SVG, item.tag) : document.createElement(item.tag);
  node.gwKey = item.key;
  node.gwAttrs = {};
  return node;
}

function update(node, item, inSvg) {
  if (typeof item === 'string') {
    if (node.data !== item) node.data = item;
    return;
  }
  const before = node.gwAttrs ?? {};
  reconcile(node, item.children, inSvg || item.tag === 'svg');
  for (const name of Object.keys(before)) if (!(name in item.attrs)) set(node, name, undefined);
  for (const [name, value] of Object.entries(item.attrs)) {
    // What a person has typed into a field is compared with what it shows, everything else with what was set.
    const shown = name === 'value' || name === 'checked' ? node[name] : before[name];
    if (shown !== value) set(node, name, value);
  }
  node.gwAttrs = item.attrs;
}

function set(node, name, value) {
  if (name.startsWith('on')) node[name] = value ?? null;
  else if (name === 'css') for (const [key, part] of Object.entries(value ?? {})) node.style.setProperty(key, part);
  else if (PROPERTIES.has(name)) node[name] = value ?? (name === 'value' ? '' : false);
  else if (value === undefined || value === null || value === false) node.removeAttribute(name);
  else node.setAttribute(name, value === true ? '' : value);
}
