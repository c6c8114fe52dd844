import assert from 'node:assert/strict'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { readHeader } from '../../lib/files/safetensors.js'
import { FakeHub } from '../fixtures/hub.js'
import { copyImages } from '../fixtures/images.js'
import { tiny } from '../fixtures/lora.js'
import { temporaryFolder } from '../fixtures/temporary.js'
import { lorafuse } from './run.js'

const NAME = 'owner/tiny-sd'
const COMMIT = 'abcdef0123456789abcdef0123456789abcdef01'

/** A Hub with the bundled model, which the command line of this test's process is told of. */
async function place(t: TestContext) {
  const hub = await FakeHub.start(t)
  const paths = (await readdir(tiny, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile())
  const files: Record<string, Uint8Array> = {}
  for (const { parentPath, name } of paths) files[join(parentPath, name).slice(tiny.length + 1)] = await readFile(join(parentPath, name))
  hub.repositories[NAME] = { commit: COMMIT, files }
  const folder = await temporaryFolder(t)
  Object.assign(process.env, { HF_ENDPOINT: hub.endpoint, HF_HOME: join(folder, 'hf'), HF_HUB_OFFLINE: '0' })
  delete process.env.HF_HUB_CACHE
  const images = await copyImages(folder, 1)
  const train = (model: string, name: string) => [
    ...['train', '--model', model, '--images', images, '--output', folder, '--name', name],
    ...['--resolution', '64', '--rank', '2', '--steps', '1'],
  ]
  return { hub, folder, train }
}

test('a name on the Hub trains the same bits as the folder, is told, and draws without the network afterwards', async (t) => {
  const { hub, folder, train } = await place(t)
  const first = await lorafuse(train(NAME, 'named'))
  assert.equal(first.code, 0, first.stderr)
  assert.match(
    first.stderr,
    /^fetching owner\/tiny-sd at abcdef0 from the Hugging Face Hub: \d+ files, \d+\.\d MB, to .*models--owner--tiny-sd\n/,
  )
  assert.match(first.stderr, /download 100% {2}(\d+\.\d MB) of \1 {2}\d+\.\d+ [MG]B\/s {2}ETA 0:00 {2}\S+\.safetensors\n/)
  const asked = hub.requests.length
  assert.equal((await lorafuse(train(tiny, 'plain'))).code, 0)
  const [named, plain] = await Promise.all(['named', 'plain'].map((name) => readHeader(join(folder, `${name}.safetensors`))))
  assert.equal(named!.metadata.sshs_model_hash, plain!.metadata.sshs_model_hash)
  assert.equal(named!.metadata.ss_sd_model_hash, plain!.metadata.ss_sd_model_hash)
  assert.equal(named!.metadata.ss_sd_model_name, NAME)

  process.env.HF_HUB_OFFLINE = '1'
  const output = join(folder, 'picture.png')
  const words = ['--prompt', 'a', '--output', output, '--steps', '1', '--width', '64', '--height', '64', '--json']
  const drawn = await lorafuse(['generate', '--model', NAME, ...words])
  assert.equal(drawn.code, 0, drawn.stdout)
  assert.ok(!drawn.stdout.includes('download'))
  const other = await lorafuse(['generate', '--model', `${NAME}@other`, ...words])
  assert.equal(other.code, 1)
  assert.equal((JSON.parse(other.stdout) as { code: string }).code, 'HUB_OFFLINE')
  assert.equal(hub.requests.length, asked)
})

test('Ctrl-C stops a download, which the same command goes on with', async (t) => {
  const { hub, train } = await place(t)
  hub.fault = (path) => (path.startsWith('unet/diffusion') ? { slowMs: 100 } : undefined)
  const words = [...train(NAME, 'lora'), '--json']
  let sent = false
  const stopped = await lorafuse(words, {
    onOutput: (text, kill) => {
      if (!sent && text.includes('"file":"unet/diffusion')) kill('SIGINT')
      sent ||= text.includes('"file":"unet/diffusion')
    },
  })
  assert.equal(stopped.code, 130, stopped.stdout.slice(-500))
  hub.fault = () => undefined
  const { code, stdout } = await lorafuse(words)
  assert.equal(code, 0, stdout)
  const start = JSON.parse(stdout.slice(0, stdout.indexOf('\n'))) as { type: string; files: number; resumedBytes: number }
  assert.equal(start.type, 'download-start')
  assert.ok(start.resumedBytes > 0)
  assert.match(hub.downloads.filter((line) => line.startsWith('unet/diffusion')).at(-1)!, / bytes=[1-9]\d*-$/)
})
