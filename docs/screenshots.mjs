// Takes the pictures of docs/images again, in a headless Chromium from npm. Nothing is loaded from the network.
//
//   uvicorn example_app.main:app --port 8000 &
//   mkdocs build && python -m http.server --directory site 8001 &
//   npm install --prefix ./browser puppeteer-core @sparticuz/chromium swagger-ui-dist
//   node docs/screenshots.mjs ./browser http://127.0.0.1:8000 http://127.0.0.1:8001 docs/images

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";

const [packages, application, documentation, pictures] = process.argv.slice(2);
const require = createRequire(join(packages, "index.js"));
const load = async (name) => (await import(require.resolve(name))).default;
const [chromium, puppeteer] = [await load("@sparticuz/chromium"), await load("puppeteer-core")];

const browser = await puppeteer.launch({
  args: chromium.args,
  executablePath: await chromium.executablePath(),
  headless: "shell",
});

async function open(url, height) {
  const page = await browser.newPage();
  await page.setViewport({ width: 1100, height, deviceScaleFactor: 1 });
  await page.setRequestInterception(true);
  page.on("request", async (request) => {
    // FastAPI's page takes Swagger UI from a CDN; here it comes from npm.
    const file = request.url().match(/swagger-ui-dist@[^/]+\/(.+)$/)?.[1];
    if (file) {
      const type = file.endsWith(".css") ? "text/css" : "text/javascript";
      await request.respond({ contentType: type, body: await readFile(join(packages, "node_modules/swagger-ui-dist", file)) });
    } else if (new URL(request.url()).hostname === "127.0.0.1" || request.url().startsWith("data:")) {
      await request.continue();
    } else {
      await request.abort();
    }
  });
  await page.goto(url, { waitUntil: "networkidle0" });
  return page;
}

const docs = await open(`${application}/docs`, 1250);
const operation = await docs.waitForSelector("#operations-default-chat_chat_post");
await (await operation.$("button")).click();
await docs.waitForSelector("#operations-default-chat_chat_post .responses-table");
await new Promise((done) => setTimeout(done, 1000));
await operation.evaluate((element) => element.scrollIntoView());
await docs.screenshot({ path: join(pictures, "docs.png") });
const landing = await open(`${documentation}/`, 900);
await landing.screenshot({ path: join(pictures, "landing.png") });
await browser.close();
