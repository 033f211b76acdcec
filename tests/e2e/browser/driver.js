// Drives one Chromium for a test: takes pieces of script by POST, runs each against the page, answers what it yields.
//
//   node driver.js MODULES CHROMIUM URL
//
// MODULES is the folder that npm installed into. It prints one line of JSON when it is ready, and ends with its parent.

const [modules, executablePath, url] = process.argv.slice(2);
const need = (name) => require(require.resolve(name, { paths: [modules] }));
const { chromium } = need('playwright-core');
const axeSource = require('fs').readFileSync(require.resolve('axe-core/axe.min.js', { paths: [modules] }), 'utf8');
const http = require('http');

const PATIENCE = 20000;
const script = Object.getPrototypeOf(async () => {}).constructor;
const complaints = [];

// Every breach of the rules for accessible pages, as text; an empty list is a page without one.
async function breaches(page) {
  // As the page's own policy allows no script from elsewhere, it is run by the debugger.
  await page.evaluate(axeSource);
  const { violations } = await page.evaluate(() => axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }));
  return violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.target.join(' ')}: ${node.failureSummary}`));
}

// Waits until `look` yields something true, and yields that.
async function until(what, look) {
  const end = Date.now() + PATIENCE;
  let last;
  while (Date.now() < end) {
    last = await look();
    if (last) return last;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`in vain: ${what}; last ${JSON.stringify(last)}`);
}

async function main() {
  const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-background-networking', '--disable-gpu'] });
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, reducedMotion: 'reduce' });
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  page.on('pageerror', (error) => complaints.push(String(error.stack)));
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
  page.on('dialog', (dialog) => { complaints.push(`a dialog: ${dialog.message()}`); dialog.dismiss(); });
  const server = http.createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    try {
      const run = new script('page', 'context', 'until', 'breaches', 'complaints', 'url', Buffer.concat(parts).toString());
      const value = await run(page, context, until, breaches, complaints, url);
      response.end(JSON.stringify(value ?? null));
    } catch (error) {
      response.statusCode = 500;
      const shown = await page.locator('body').innerText().catch(() => '');
      response.end(`${error.stack}\n-- the page said:\n${shown.slice(0, 3000)}\n-- the browser complained:\n${complaints.join('\n')}`);
    }
  });
  server.listen(0, '127.0.0.1', () => console.log(JSON.stringify({ ready: true, listen: `127.0.0.1:${server.address().port}` })));
}

main().catch((error) => { console.error(error); process.exit(1); });
