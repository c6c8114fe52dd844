// Shares a cache of the Hugging Face Hub with Python's huggingface_hub, both ways, over a Hub on loopback: npm run build && node scripts/compare/hub.js
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { hubSettings } from '../../dist/lib/models/hub/settings.js'
import { resolveHubModel } from '../../dist/lib/models/hub.js'
import { FakeHub, repositoryFiles } from '../../dist/test/fixtures/hub.js'

const here = (name) => fileURLToPath(new URL(name, import.meta.url))
const [repository, commit, weights] = [
  'owner/model',
  'abcdef0123456789abcdef0123456789abcdef01',
  'unet/diffusion_pytorch_model.fp16.safetensors',
]
const after = []
const hub = await FakeHub.start({ after: (work) => after.push(work) })
const files = repositoryFiles()
hub.repositories[repository] = { commit, files }

async function python(command, environment) {
  const child = spawn('sh', [here('../python.sh'), here('hub.py'), command, repository, weights], {
    env: { ...process.env, ...environment, HF_HUB_DISABLE_TELEMETRY: '1' },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let output = ''
  child.stdout.on('data', (text) => (output += text))
  assert.equal(await new Promise((resolve) => child.on('close', resolve)), 0)
  return JSON.parse(output.trim().split('\n').at(-1))
}

async function cache() {
  const HF_HOME = await mkdtemp(join(tmpdir(), 'lorafuse-hub-'))
  after.push(() => rm(HF_HOME, { recursive: true, force: true }))
  const environment = { HF_ENDPOINT: hub.endpoint, HF_HOME }
  return { environment, settings: await hubSettings(environment) }
}

/** What both have to agree on. */
async function check(report, folder) {
  assert.equal(report.folder, folder)
  assert.deepEqual([report.warnings, report.incomplete, report.refs, report.commit], [[], 0, ['main'], commit])
  assert.deepEqual(new Uint8Array(await readFile(report.path)), new Uint8Array(files[weights]))
}

try {
  const ours = await cache()
  const made = await resolveHubModel(repository, { settings: ours.settings })
  const read = await python('read', { ...ours.environment, HF_HUB_OFFLINE: '1' })
  await check(read, made)
  console.log(`Python reads the cache that was made here: ${read.files.length} files`)

  const theirs = await cache()
  const fetched = await python('fetch', theirs.environment)
  const asked = hub.requests.length
  const found = await resolveHubModel(repository, { settings: { ...theirs.settings, offline: true } })
  await check(fetched, found)
  assert.equal(hub.requests.length, asked)
  console.log(`The cache that Python made is read here: ${fetched.files.length} files`)

  const shared = await cache()
  const both = await Promise.all([python('fetch', shared.environment), resolveHubModel(repository, { settings: shared.settings })])
  await check(await python('read', { ...shared.environment, HF_HUB_OFFLINE: '1' }), both[1])
  console.log('Both fetch into one cache at once')
} finally {
  for (const work of after) await work()
}
