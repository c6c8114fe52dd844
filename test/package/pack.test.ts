/** The packed tarball on a stranger's machine: an empty HOME, no compiler, install scripts run or not. Needs the npm registry. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { long } from '../long.js'

const root = fileURLToPath(new URL('../../..', import.meta.url))
const scratch = mkdtempSync(join(tmpdir(), 'lorafuse-package-'))
const home = join(scratch, 'home')
const tools = join(scratch, 'tools')
const stage = join(scratch, 'stage')

/** What npm and Node need, and no compiler: where Node lies in /usr/bin, a link to it alone. */
function makeTools(): void {
  mkdirSync(tools)
  mkdirSync(home)
  for (const tool of ['sh', 'env', 'node', 'npm', 'npx']) {
    const found = (process.env.PATH ?? '').split(delimiter).find((folder) => existsSync(join(folder, tool)))
    assert.ok(found, tool)
    symlinkSync(join(found, tool), join(tools, tool))
  }
}

/** What a network needs is kept, all other settings of npm and of the test runner are not. */
const FOREIGN = /^npm_(?!config_(registry|cafile|(https?_?|no)?proxy)$)|^NODE_(OPTIONS|TEST_CONTEXT|PATH)$|^CI$|^INIT_CWD$/

function run(cwd: string, command: string, words: string[], path: string[] = [tools]) {
  const kept = Object.fromEntries(Object.entries(process.env).filter(([name]) => !FOREIGN.test(name)))
  const npm = { npm_config_prefer_offline: 'true', npm_config_fetch_retries: '1' }
  const env = { ...kept, ...npm, HOME: home, PATH: path.join(delimiter) }
  const { status, stdout, stderr, error } = spawnSync(command, words, { cwd, env, encoding: 'utf8', timeout: 300_000, maxBuffer: 2 ** 26 })
  assert.ifError(error)
  return { status, stdout, stderr, all: `${command} ${words.join(' ')}\n${stdout}\n${stderr}` }
}

function succeed(...call: Parameters<typeof run>): string {
  const { status, stdout, all } = run(...call)
  assert.equal(status, 0, all)
  return stdout
}

/** The package as `npm run prebuilds` leaves it, from the addon that is built already. */
function pack(): { tarball: string; files: string[] } {
  const { files } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { files: string[] }
  for (const path of [...files, 'package.json', 'README.md', 'LICENSE', 'build/Release']) {
    if (path !== 'prebuilds') cpSync(join(root, path), join(stage, path), { recursive: true })
  }
  const prebuildify = join(root, 'node_modules/prebuildify/bin.js')
  const everything = (process.env.PATH ?? '').split(delimiter)
  succeed(stage, process.execPath, [prebuildify, '--napi', '--strip', '--tag-libc', '--node-gyp', 'true'], everything)
  rmSync(join(stage, 'build'), { recursive: true })
  const [packed] = JSON.parse(succeed(stage, 'npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', scratch])) as [
    { filename: string; files: { path: string }[] },
  ]
  return { tarball: join(scratch, packed.filename), files: packed.files.map(({ path }) => path) }
}

function install(name: string, tarball: string, ...options: string[]): string {
  const project = join(scratch, name)
  mkdirSync(project)
  writeFileSync(join(project, 'package.json'), JSON.stringify({ name, private: true, type: 'module' }))
  succeed(project, 'npm', ['install', '--no-audit', '--no-fund', ...options, tarball])
  return project
}

const TRAIN = `
  import { existsSync } from 'node:fs'
  import { train } from 'lorafuse'
  const examples = 'node_modules/lorafuse/examples/'
  const options = { model: examples + 'tiny-sd', images: examples + 'emoji', resolution: 128, bucketMin: 128, steps: 1, rank: 2, saveEvery: 0 }
`

describe('the packed package', { timeout: 1_800_000 }, () => {
  let tarball = ''
  let files: string[] = []

  before(() => {
    makeTools()
    ;({ tarball, files } = pack())
  })
  after(() => rmSync(scratch, { recursive: true, force: true }))

  test('holds what running and building from source need, and no more', () => {
    for (const needed of [
      'dist/lib/index.js',
      'dist/lib/index.d.ts',
      'dist/lib/cli/cli.js',
      'native/addon/addon.cc',
      'CMakeLists.txt',
      'binding.gyp',
      'scripts/install.js',
      'scripts/build-native.js',
      'scripts/example.js',
      'prebuilds/linux-x64/lorafuse.glibc.node',
      'prebuilds/linux-x64/liblorafuse_cpu_generic.so',
      'examples/tiny-sd/unet/diffusion_pytorch_model.safetensors',
      'examples/LICENSE',
      'LICENSE',
      'README.md',
      'docs/options.md',
    ]) {
      const here = needed.replace('linux-x64', `${process.platform}-${process.arch}`)
      assert.ok(files.includes(here), here)
    }
    assert.equal(files.filter((file) => /^examples\/emoji\/.*\.png$/.test(file)).length, 24)
    assert.deepEqual(
      files.filter((file) => /^(test|dist\/test|build|output)\/|\.py$/.test(file)),
      [],
    )
  })

  test('installs without a compiler, imports, trains and draws', () => {
    assert.notEqual(run(scratch, 'sh', ['-c', 'command -v cmake || command -v g++ || command -v make']).status, 0)
    const project = install('plain', tarball)
    succeed(project, 'npx', ['--no-install', 'lorafuse', 'doctor'])
    writeFileSync(
      join(project, 'train.js'),
      `${TRAIN} await train({ ...options, output: 'out' }); console.log(existsSync('out/lora.safetensors'))`,
    )
    assert.match(succeed(project, 'node', ['train.js']), /true/)
    const words = '--model node_modules/lorafuse/examples/tiny-sd --prompt fish --lora out/lora.safetensors --steps 2 --output fish.png'
    succeed(project, 'npx', ['--no-install', 'lorafuse', 'generate', ...words.split(' ')])
    assert.ok(existsSync(join(project, 'fish.png')))
  })

  test('runs in a worker thread', () => {
    const project = join(scratch, 'plain')
    writeFileSync(
      join(project, 'worker.js'),
      `${TRAIN} import { parentPort, workerData } from 'node:worker_threads'
      await train({ ...options, output: workerData })
      parentPort.postMessage(existsSync(workerData + '/lora.safetensors'))`,
    )
    writeFileSync(
      join(project, 'main.js'),
      `import { Worker } from 'node:worker_threads'
      const done = (name) => new Promise((resolve, reject) => {
        new Worker(new URL('worker.js', import.meta.url), { workerData: name }).on('message', resolve).on('error', reject)
      })
      console.log(await Promise.all([done('one'), done('two')]))`,
    )
    assert.match(succeed(project, 'node', ['main.js']), /true, true/)
  })

  if (long)
    test('works where install scripts are skipped', () => {
      const project = install('skipped', tarball, '--ignore-scripts')
      succeed(project, 'npx', ['--no-install', 'lorafuse', 'doctor'])
    })

  test('without a prebuilt addon says how to build it', () => {
    const project = join(scratch, 'plain')
    rmSync(join(project, 'node_modules/lorafuse/prebuilds'), { recursive: true })
    writeFileSync(
      join(project, 'train.js'),
      `${TRAIN} await train({ ...options, output: 'out' }).catch((e) => console.log(e.code, e.message))`,
    )
    assert.match(succeed(project, 'node', ['train.js']), /NATIVE_NOT_FOUND[\s\S]*npx lorafuse-build/)
    const failed = run(project, 'npx', ['--no-install', 'lorafuse-build'])
    assert.equal(failed.status, 1, failed.all)
    assert.match(failed.all, /apt-get install cmake make g\+\+/)
  })
})
