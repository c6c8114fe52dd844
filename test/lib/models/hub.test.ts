import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readdir, readFile, readlink, rm, stat, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { test } from 'node:test'
import { hubSettings } from '../../../lib/models/hub/settings.js'
import { locateModel, resolveHubModel } from '../../../lib/models/hub.js'
import { etagOf, noise, repositoryFiles } from '../../fixtures/hub.js'
import {
  COMMIT,
  checkSnapshot,
  folderOf,
  leftOf,
  NAME,
  NEEDED,
  partials,
  rejects,
  UNET,
  type World,
  world,
} from '../../fixtures/hub-world.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

test('a repository is fetched once, only what training needs of it, into the cache as Python lays it out', async (t) => {
  const here = await world(t)
  const { hub, repository, events } = here
  const path = await here.resolve()
  assert.equal(path, join(folderOf(here), 'snapshots', COMMIT))
  await checkSnapshot(path, repository.files)
  assert.equal(await readFile(join(folderOf(here), 'refs/main'), 'utf8'), COMMIT)
  assert.equal(await readlink(join(path, UNET)), `../../../blobs/${etagOf(repository.files[UNET]!)}`)
  assert.equal(await readlink(join(path, 'model_index.json')), `../../blobs/${etagOf(repository.files['model_index.json']!)}`)
  assert.deepEqual((await readdir(join(folderOf(here), 'blobs'))).sort(), NEEDED.map((name) => etagOf(repository.files[name]!)).sort())

  const bytes = NEEDED.reduce((sum, name) => sum + repository.files[name]!.length, 0)
  const [start, ...others] = events
  assert.deepEqual(start, {
    ...{ type: 'download-start', repository: NAME, commit: COMMIT, files: NEEDED.length, bytes, resumedBytes: 0, folder: folderOf(here) },
  })
  const last = others.at(-1)
  assert.ok(last?.type === 'download' && last.done === bytes && last.total === bytes && last.file === UNET && last.etaSeconds === 0)

  const before = hub.requests.length
  assert.equal(await here.resolve(NAME, { offline: true }), path)
  assert.equal(await here.resolve(), path)
  assert.equal(hub.requests.length, before, 'what is in the cache needs no network')
})

test('revisions, commits, files and addresses of pages name what they say', async (t) => {
  const here = await world(t)
  const { hub, repository } = here
  repository.revisions = ['v1.0', 'refs/pr/3', 'a/b']
  const folder = await here.resolve()
  const downloads = hub.downloads.length
  for (const revision of ['v1.0', 'refs/pr/3', 'a%2Fb', COMMIT]) assert.equal(await here.resolve(`${NAME}@${revision}`), folder)
  assert.equal(await readFile(join(folderOf(here), 'refs/refs/pr/3'), 'utf8'), COMMIT)
  for (const page of ['', '/', '/tree/main', '/tree/v1.0']) assert.equal(await here.resolve(`${hub.endpoint}/${NAME}${page}`), folder)
  assert.equal(await here.resolve(`https://huggingface.co/${NAME}/tree/refs%2Fpr%2F3`), folder)
  assert.equal(hub.downloads.length, downloads)

  const file = join(folder, 'model.safetensors')
  assert.equal(await here.resolve(`${NAME}/model.safetensors`), file)
  assert.deepEqual(new Uint8Array(await readFile(file)), repository.files['model.safetensors'])
  for (const name of [
    `${NAME}@main/model.safetensors`,
    `${NAME}@refs/pr/3/model.safetensors`,
    `https://huggingface.co/${NAME}/resolve/main/model.safetensors?download=true`,
  ]) {
    assert.equal(await here.resolve(name, { offline: true }), file)
  }
  assert.deepEqual(hub.downloads.slice(downloads), ['model.safetensors'])
  assert.equal(
    await here.resolve(`https://hf.co/${NAME}/blob/v1.0/vae/diffusion_pytorch_model.safetensors`),
    join(folder, 'vae/diffusion_pytorch_model.safetensors'),
  )
})

test('the smaller weights are taken, shards included, and what the cache has in whole is not fetched in another variant', async (t) => {
  const files = repositoryFiles()
  delete files['vae/diffusion_pytorch_model.fp16.safetensors']
  delete files[UNET]
  const shards = [1, 2].map((i) => `unet/diffusion_pytorch_model.fp16-0000${i}-of-00002.safetensors`)
  for (const [i, shard] of shards.entries()) files[shard] = noise(50_000, i + 50)
  files['unet/diffusion_pytorch_model.safetensors.index.fp16.json'] = Buffer.from('{}')
  const here = await world(t, files)
  const path = await here.resolve()
  const expected = [...NEEDED.filter((name) => name !== UNET && !/^vae\/d/.test(name)), ...shards]
  expected.push('unet/diffusion_pytorch_model.safetensors.index.fp16.json', 'vae/diffusion_pytorch_model.safetensors')
  await checkSnapshot(path, files, expected)

  await t.test('a shard that is gone is fetched again', async () => {
    await rm(join(path, shards[1]!))
    await rm(join(folderOf(here), 'blobs', etagOf(files[shards[1]!]!)))
    const before = here.hub.downloads.length
    await here.resolve()
    assert.deepEqual(here.hub.downloads.slice(before), [shards[1]])
  })
  await t.test('an interrupted download of other weights takes nothing from those that are whole', async () => {
    const before = here.hub.requests.length
    const unet = join(path, 'unet')
    const left = ['.safetensors.index.json', '-00001-of-00002.safetensors'].map((end) => join(unet, `diffusion_pytorch_model${end}`))
    for (const name of left) await writeFile(name, '{}')
    assert.equal(await here.resolve(), path)
    assert.equal(here.hub.requests.length, before)
    for (const name of left) await rm(name)
  })
  await t.test('pickles are taken of a part that has nothing else', async () => {
    const files = repositoryFiles()
    for (const name of Object.keys(files)) if (/^(unet|text_encoder)\/.*safetensors$/.test(name)) delete files[name]
    files['text_encoder/pytorch_model.bin'] = noise(30_000, 70)
    here.hub.repositories['owner/pickles'] = { commit: COMMIT, files }
    const others = NEEDED.filter((name) => !/^(unet|text_encoder)\/.*safetensors$/.test(name))
    const path = await here.resolve('owner/pickles')
    await checkSnapshot(path, files, [...others, 'unet/diffusion_pytorch_model.bin', 'text_encoder/pytorch_model.bin'])
  })
  await t.test('the other variant is there', async () => {
    const other = { ...here.repository, commit: 'f'.repeat(40), files: repositoryFiles() }
    here.hub.repositories[NAME] = other
    const full = 'unet/diffusion_pytorch_model.safetensors'
    await writeFile(join(folderOf(here), 'blobs', etagOf(other.files[full]!)), other.files[full]!)
    const before = here.hub.downloads.length
    const path = await here.resolve(`${NAME}@${other.commit}`)
    assert.ok((await stat(join(path, full))).isFile())
    assert.deepEqual(here.hub.downloads.slice(before), ['vae/diffusion_pytorch_model.fp16.safetensors'].slice(1))
  })
})

test('a connection that is cut, silent, refused for now or without ranges is asked again, for what is missing', async (t) => {
  const size = 300_000
  const cases: [string, (count: number) => object | undefined, string[]][] = [
    ['cut twice', (count) => (count < 3 ? { cutAfter: 100_000 } : undefined), ['', 'on', 'on']],
    ['silent', (count) => (count === 1 ? { silentAfter: 65536 } : undefined), ['', 'on']],
    ['too short', (count) => (count === 1 ? { cutAfter: 0, length: size } : undefined), ['', '']],
    [
      'busy',
      (count) => (count === 1 ? { status: 503 } : count === 2 ? { status: 429, headers: { 'retry-after': '0' } } : undefined),
      ['', '', ''],
    ],
    ['no ranges', (count) => (count === 1 ? { cutAfter: 131072 } : { noRange: true }), ['', 'on']],
  ]
  for (const [title, fault, ranges] of cases) {
    await t.test(title, async (t) => {
      const here = await world(t)
      here.hub.fault = (path, count) => (path === UNET ? fault(count) : undefined)
      const path = await here.resolve(NAME, { stallMs: 300 })
      await checkSnapshot(path, here.repository.files)
      const asked = here.hub.downloads
        .filter((line) => line.startsWith(UNET))
        .map((line) => line.slice(UNET.length).replace(/^ bytes=[1-9]\d*-$/, 'on'))
      assert.deepEqual(asked, ranges)
      const last = here.events.at(-1)
      assert.ok(last?.type === 'download' && last.done === last.total)
      assert.deepEqual(await partials(here), [])
    })
  }
})

test('what cannot be had ends in a sentence, and what came is kept for the next time', async (t) => {
  await t.test('cut too often', async (t) => {
    const here = await world(t)
    here.hub.fault = (path, count) => (path === UNET ? { cutAfter: count === 1 ? 70_000 : 0 } : undefined)
    await rejects(here.resolve(), 'HUB_INTERRUPTED', /6 times in a row.*goes on from there$/)
    const left = await leftOf(here)
    assert.ok(left > 0 && left <= 70_000)
    here.hub.fault = () => undefined
    here.events.length = 0
    await checkSnapshot(await here.resolve(), here.repository.files)
    assert.deepEqual(here.hub.downloads.slice(-1), [`${UNET} bytes=${left}-`])
    const [start] = here.events
    assert.ok(start?.type === 'download-start' && start.files === 1 && start.bytes === 300_000 && start.resumedBytes === left)
  })
  await t.test('other bytes', async (t) => {
    const here = await world(t)
    here.hub.fault = (path) => (path === UNET ? { bytes: noise(300_000, 5) } : undefined)
    await rejects(here.resolve(), 'HUB_DAMAGED', /300000 bytes with the hash \w{12}… for unet.*another hash/)
    assert.deepEqual(await partials(here), [])
    here.hub.fault = (path) => (path === 'vae/config.json' ? { bytes: Buffer.from('{"seed":9}') } : undefined)
    await rm(join(folderOf(here), 'blobs', etagOf(here.repository.files['vae/config.json']!)))
    await rejects(here.resolve(), 'HUB_DAMAGED', /for vae\/config.json.*another hash/)
  })
  await t.test('another length', async (t) => {
    const here = await world(t)
    here.hub.fault = (path) => (path === UNET ? { bytes: noise(299_999, 1) } : undefined)
    await rejects(here.resolve(), 'HUB_DAMAGED', /received 299999 bytes/)
    here.hub.fault = (path) => (path === UNET ? { bytes: noise(300_001, 1) } : undefined)
    await rejects(here.resolve(), 'HUB_DAMAGED', /received 300001 bytes/)
  })
  await t.test('another etag after a cut', async (t) => {
    const here = await world(t)
    here.hub.fault = (path, count) => (path === UNET ? (count === 1 ? { cutAfter: 70_000 } : { etag: 'e'.repeat(64) }) : undefined)
    await rejects(here.resolve(), 'HUB_DAMAGED', /received another file, with the hash eeeeeeeeeeee/)
  })
  await t.test('what was left is damaged', async (t) => {
    const here = await world(t)
    here.hub.fault = (path) => (path === UNET ? { cutAfter: 0 } : undefined)
    await rejects(here.resolve(), 'HUB_INTERRUPTED', /unet/)
    const [partial] = await partials(here)
    for (const left of [new Uint8Array(70_000), new Uint8Array(300_000), new Uint8Array(400_000)]) {
      await writeFile(join(folderOf(here), 'blobs', partial!), left)
      here.hub.fault = () => undefined
      await checkSnapshot(await here.resolve(), here.repository.files)
      await rm(join(folderOf(here), 'blobs', etagOf(here.repository.files[UNET]!)))
    }
  })
})

test('a refusal says what to do', async (t) => {
  const here = await world(t)
  const { hub, repository } = here
  await rejects(
    here.resolve('owner/nothing'),
    'HUB_NOT_FOUND',
    /^Expected a model owner\/nothing in this folder or on http:.*but received none; correct the name, or set HF_TOKEN/,
  )
  await rejects(here.resolve(`${NAME}@v9`), 'HUB_NOT_FOUND', /a revision of this name in owner\/some-model/)
  await rejects(here.resolve(`${NAME}/other.safetensors`), 'HUB_NOT_FOUND', /the file other.safetensors in/)
  await rejects(here.resolve(NAME, { token: 'hf_old' }), 'HUB_DENIED', /a token that http.* renew or unset HF_TOKEN/)
  repository.token = 'hf_right'
  await rejects(here.resolve(), 'HUB_NOT_FOUND', /set HF_TOKEN if it is private/)
  repository.gated = true
  await rejects(here.resolve(), 'HUB_DENIED', new RegExp(`is gated; accept its licence at ${hub.endpoint}/${NAME} and set HF_TOKEN$`))
  hub.repositories['other/one'] = { commit: COMMIT, files: {}, token: 'hf_other' }
  await rejects(here.resolve(NAME, { token: 'hf_other' }), 'HUB_DENIED', /with the account of your HF_TOKEN$/)
  await rejects(here.resolve(NAME, { offline: true }), 'HUB_OFFLINE', /HF_HUB_OFFLINE is set/)
  await checkSnapshot(await here.resolve(NAME, { token: 'hf_right' }), repository.files)

  hub.repositories['owner/files'] = { commit: COMMIT, files: { 'v1.safetensors': noise(20_000, 1), 'README.md': noise(10, 1) } }
  await rejects(
    here.resolve('owner/files'),
    'HUB_NO_MODEL',
    /none of unet\/config.json; name a checkpoint in it, as in owner\/files\/v1.safetensors$/,
  )
  const none = repositoryFiles()
  for (const name of Object.keys(none)) if (name.startsWith('unet/') && name !== 'unet/config.json') delete none[name]
  hub.repositories['owner/none'] = { commit: COMMIT, files: none }
  const half = repositoryFiles()
  delete half['tokenizer/merges.txt']
  hub.repositories['owner/half'] = { commit: COMMIT, files: half }
  await rejects(here.resolve('owner/half'), 'HUB_NO_MODEL', /none of tokenizer\/merges.txt/)
  await rejects(here.resolve('owner/none'), 'HUB_NO_MODEL', /none of unet\/diffusion_pytorch_model.safetensors/)
  hub.repositories['owner/flux'] = { commit: COMMIT, files: {}, pipeline: 'FluxPipeline' }
  await rejects(here.resolve('owner/flux'), 'MODEL_UNSUPPORTED', /in owner\/flux but received FLUX/)
  const inpainting = { ...repositoryFiles(), 'unet/config.json': Buffer.from('{"in_channels":9}') }
  hub.repositories['owner/inpainting'] = { commit: COMMIT, files: inpainting }
  const before = hub.downloads.length
  await rejects(here.resolve('owner/inpainting'), 'MODEL_UNSUPPORTED', /an inpainting model/)
  assert.ok(!hub.downloads.slice(before).some((path) => path.endsWith('.safetensors')))
  await rejects(here.resolve('https://example.org/model.safetensors'), 'OPTION_INVALID', /download the file yourself and give its path$/)
  await rejects(here.resolve(`https://huggingface.co/datasets/${NAME}`), 'OPTION_INVALID', /no page of a repository/)
  for (const page of ['', '/', '/models?sort=trending', '/owner', '/owner/']) {
    const message = /received "https:[^ ]*", which names none; give the address of a model's own page, as in http:.*\/owner\/name$/
    await rejects(here.resolve(`https://huggingface.co${page}`), 'OPTION_INVALID', message)
  }

  await hub.stop()
  await rejects(
    here.resolve('owner/third'),
    'HUB_UNREACHABLE',
    /an answer from http.*but received ECONNREFUSED; connect to the network, or set HF_ENDPOINT/,
  )
  await rejects(here.resolve('owner/third', { endpoint: 'http://hub.invalid' }), 'HUB_UNREACHABLE', /received (ENOTFOUND|EAI_AGAIN)/)
})

test('user name and password of HF_ENDPOINT go to that server alone, and into no message', async (t) => {
  const received: unknown[] = []
  const server = createServer(({ headers }, response) => {
    received.push(headers.authorization)
    response.writeHead(received.length === 1 ? 403 : 302, { location: 'nowhere:' }).end()
  }).listen(0, '127.0.0.1')
  t.after(() => server.close())
  await once(server, 'listening')
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`
  const HOME = await temporaryFolder(t)
  const resolve = async (endpoint: string, name = NAME) =>
    resolveHubModel(name, { settings: { ...(await hubSettings({ HOME, HF_ENDPOINT: endpoint, HF_TOKEN: 'hf_mine' })), retryMs: 1 } })
  const shown = new RegExp(` http://${host}[ /].*see http://${host}/${NAME}$`)
  await rejects(resolve(`http://user:sec%40ret@${host}/`), 'HUB_DENIED', shown)
  await rejects(resolve(`http://user:sec%40ret@${host}`), 'HUB_FAILED', new RegExp(`from http://${host} but`))
  assert.deepEqual(received, Array(2).fill(`Basic ${Buffer.from('user:sec@ret').toString('base64')}`))
  await rejects(resolve(`http://user:secret@${host}`, 'https://example.org/x'), 'OPTION_INVALID', new RegExp(`on http://${host} but`))
  await rejects(resolve('http://user:secret@hub.invalid'), 'HUB_UNREACHABLE', /answer from http:\/\/hub\.invalid about/)
  for (const address of ['user:secret@host', 'ftp://user:sec@ret@host', 'https://user:secret@'])
    await rejects(resolve(address), 'OPTION_INVALID', /for HF_ENDPOINT but received "…@(host)?"$/)
})

test('a server that answers nonsense ends in a sentence', async (t) => {
  const here = await world(t)
  here.repository.commit = '../../../etc'
  await rejects(here.resolve(), 'HUB_FAILED', /the commit of owner\/some-model/)
  const files = { ...repositoryFiles(), '../../escape.safetensors': noise(20, 1) }
  here.hub.repositories[NAME] = { commit: COMMIT, files }
  await checkSnapshot(await here.resolve(), files)
  here.hub.repositories['owner/busy'] = here.repository
  await rejects(
    here.resolve('owner/busy/../../escape.safetensors').catch((error) => Promise.reject(error)),
    'ERR_ASSERTION',
    /no name/,
  )
})

test('answers and listings without an end are cut with a sentence, and entries that make no sense are passed over', async (t) => {
  const here = await world(t)
  here.hub.blanks = 2 ** 25
  await rejects(
    here.resolve(),
    'HUB_FAILED',
    /^Expected at most 32 MiB about owner\/some-model from http.* but received more; try again later/,
  )
  here.hub.blanks = 0
  here.hub.endless = true
  await rejects(here.resolve(), 'HUB_FAILED', /at most 1024 pages of files about owner\/some-model/)
  here.hub.endless = false
  const entry = { type: 'file', path: 'x', size: 1, oid: 'a'.repeat(40) }
  here.hub.odd = [{ ...entry, path: 5 }, { ...entry, size: -1 }, { ...entry, oid: 7 }, { ...entry, oid: '../../x' }, {}]
  await checkSnapshot(await here.resolve(), here.repository.files)
  here.hub.odd = [null]
  await rejects(here.resolve(`${NAME}/vae/diffusion_pytorch_model.bin`), 'HUB_FAILED', /^Expected a listing of owner\/some-model/)
})

test('a signal stops a download at once, and the next one goes on', async (t) => {
  const here = await world(t, repositoryFiles(2_000_000))
  here.hub.fault = (path) => (path === UNET ? { slowMs: 50 } : undefined)
  const controller = new AbortController()
  const work = resolveHubModel(NAME, {
    settings: here.settings,
    signal: controller.signal,
    onEvent: (event) => event.type === 'download' && event.file === UNET && controller.abort(),
  })
  await assert.rejects(work, (error) => error === controller.signal.reason)
  const left = await leftOf(here)
  assert.ok(left > 0 && left < 2_000_000)
  await checkSnapshot(await here.resolve(), here.repository.files)
  assert.deepEqual(here.hub.downloads.slice(-1), [`${UNET} bytes=${left}-`])
})

/** Resolves a name in a process of its own, as the command line does. */
function child({ hub, settings }: World) {
  const url = new URL('../../../lib/models/hub.js', import.meta.url).href
  const code = `const { resolveHubModel } = await import(${JSON.stringify(url)})
    console.log(await resolveHubModel(${JSON.stringify(NAME)}, { onEvent: (event) => console.error(JSON.stringify(event)) }))`
  const env = { ...process.env, HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: settings.cache, HOME: settings.cache }
  const started = spawn(process.execPath, ['--input-type=module', '-e', code], { env, stdio: ['ignore', 'pipe', 'pipe'] })
  const output = { out: '', err: '' }
  started.stdout.on('data', (text) => (output.out += text))
  started.stderr.on('data', (text) => (output.err += text))
  const ended = new Promise<number | null>((resolve) => started.on('close', resolve))
  return { started, output, ended }
}

test('a process that is killed leaves a part, which the next one goes on with', async (t) => {
  const here = await world(t, repositoryFiles(2_000_000))
  here.hub.fault = (path, count) => (path === UNET && count === 1 ? { slowMs: 50 } : undefined)
  const first = child(here)
  const more = () => new Promise((resolve) => first.started.stderr.once('data', resolve))
  while (!first.output.err.includes(UNET))
    assert.equal(await Promise.race([more().then(() => 'more'), first.ended]), 'more', first.output.err)
  first.started.kill('SIGKILL')
  await first.ended
  const left = await leftOf(here)
  assert.ok(left > 0 && left < 2_000_000)
  await rejects(here.resolve(NAME, { offline: true }), 'HUB_OFFLINE', /or a part/)
  await checkSnapshot(await here.resolve(), here.repository.files)
  assert.deepEqual(here.hub.downloads.slice(-1), [`${UNET} bytes=${left}-`])
  assert.deepEqual(await partials(here), [])
})

test('two processes and a call fetch each file once', async (t) => {
  const here = await world(t)
  here.hub.fault = (path) => (path === UNET ? { slowMs: 400 } : undefined)
  const children = [child(here), child(here)]
  const told = children.map(({ started }) => new Promise((resolve) => started.stderr.once('data', resolve)))
  await Promise.race([...told, ...children.map(({ ended }) => ended)])
  const path = await here.resolve()
  for (const { ended, output } of children) {
    assert.equal(await ended, 0, output.err)
    assert.equal(output.out.trim(), path)
  }
  await checkSnapshot(path, here.repository.files)
  assert.deepEqual(here.hub.downloads.sort(), [...NEEDED].sort())
  assert.ok(here.events.some((event) => event.type === 'warning' && event.code === 'HUB_BUSY'))
})

test('a path wins over a name, and what is neither stays a path', async (t) => {
  const here = await world(t)
  const { settings } = here
  const folder = await temporaryFolder(t)
  assert.deepEqual(await locateModel(folder, { settings }), { path: folder })
  for (const path of [
    'model',
    './owner/model',
    '/owner/model',
    '../owner/model',
    'models/sd15/',
    'a/b/c',
    'models/x.safetensors',
    'a--b/c',
    '.a/b',
    'a/b.git',
    'a/b@',
    'a/b@../x',
    'a/b@x/config.json',
  ]) {
    assert.deepEqual(await locateModel(path, { settings }), { path })
  }
  assert.deepEqual(await locateModel(NAME, { settings }, true), { path: NAME })
  assert.deepEqual(here.hub.requests, [])
  const before = process.cwd()
  t.after(() => process.chdir(before))
  await mkdir(join(folder, NAME), { recursive: true })
  process.chdir(folder)
  assert.deepEqual(await locateModel(NAME, { settings }), { path: NAME })
  process.chdir(before)
  assert.deepEqual(await locateModel(NAME, { settings }), { path: join(folderOf(here), 'snapshots', COMMIT), name: NAME })
  assert.deepEqual(await locateModel(`${NAME}/model.safetensors`, { settings }), {
    path: join(folderOf(here), 'snapshots', COMMIT, 'model.safetensors'),
  })
})

test('a disk that is too small is found before anything is fetched', async (t) => {
  const here = await world(t)
  here.hub.sizes[UNET] = 2 ** 52
  await rejects(here.resolve(), 'DISK_FULL', /of room in .* but received .* GB; free some space, or set HF_HOME/)
  assert.deepEqual(here.hub.downloads, [])
})

test('the settings come from the variables that Python reads', async (t) => {
  const home = await temporaryFolder(t)
  const of = async (environment: Record<string, string>) => hubSettings({ HOME: home, ...environment })
  const plain = await of({})
  assert.deepEqual(
    [plain.endpoint, plain.cache, plain.token, plain.offline],
    ['https://huggingface.co', join(home, '.cache/huggingface/hub'), undefined, false],
  )
  assert.equal((await of({ XDG_CACHE_HOME: '/x' })).cache, '/x/huggingface/hub')
  assert.equal((await of({ XDG_CACHE_HOME: '/x', HF_HOME: '~/hf' })).cache, join(home, 'hf/hub'))
  // biome-ignore lint/suspicious/noTemplateCurlyInString: as a shell writes it
  assert.equal((await of({ HF_HOME: '/h', HF_HUB_CACHE: '$PLACE/${PLACE}/c', PLACE: '/p' })).cache, '/p/p/c')
  assert.equal((await of({ HF_HOME: '/h', HUGGINGFACE_HUB_CACHE: '/old' })).cache, '/old')
  assert.equal((await of({ HF_HOME: '' })).cache, plain.cache)
  assert.equal((await of({ HF_ENDPOINT: 'https://mirror.example/' })).endpoint, 'https://mirror.example')
  await rejects(of({ HF_ENDPOINT: 'mirror' }), 'OPTION_INVALID', /for HF_ENDPOINT but received "mirror"/)
  for (const offline of ['1', 'true', 'YES', 'on']) assert.ok((await of({ HF_HUB_OFFLINE: offline })).offline)
  assert.ok((await of({ TRANSFORMERS_OFFLINE: '1' })).offline)
  assert.ok(!(await of({ HF_HUB_OFFLINE: '0' })).offline)
  await mkdir(join(home, '.cache/huggingface'), { recursive: true })
  await writeFile(join(home, '.cache/huggingface/token'), 'hf_file\n')
  assert.equal((await of({})).token, 'hf_file')
  assert.equal((await of({ HF_TOKEN: ' hf_env ' })).token, 'hf_env')
  assert.equal((await of({ HF_HUB_DISABLE_IMPLICIT_TOKEN: '1' })).token, undefined)
  assert.equal((await of({ HF_TOKEN_PATH: '/nowhere' })).token, undefined)
  await rejects(of({ HF_TOKEN: 'two words' }), 'OPTION_INVALID', /one word of letters and digits/)
  await writeFile(join(home, '.cache/huggingface/token'), Uint8Array.of(0xff, 0xfe))
  await rejects(of({}), 'OPTION_INVALID', /one word of letters and digits, in HF_TOKEN or .*token but received another text/)
})
