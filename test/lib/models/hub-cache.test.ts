/** What lies in the cache of the Hub: as Python leaves it, without links, damaged. */
import assert from 'node:assert/strict'
import fs, { mkdir, readdir, readFile, rm, stat, symlink, truncate, writeFile } from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import type { HubSettings } from '../../../lib/models/hub/settings.js'
import { readModel } from '../../../lib/models/read.js'
import { etagOf, repositoryFiles } from '../../fixtures/hub.js'
import { COMMIT, checkSnapshot, folderOf, NAME, NEEDED, rejects, UNET, world } from '../../fixtures/hub-world.js'
import { tiny } from '../../fixtures/lora.js'

test('a cache that Python made is used as it is', async (t) => {
  const here = await world(t)
  const { files } = here.repository
  // As huggingface_hub 2.4 and diffusers leave it: the larger weights, an index of the tree, locks, and absent files noted.
  const names = NEEDED.map((name) => name.replace('.fp16', ''))
  const root = folderOf(here)
  for (const name of names) {
    const pointer = join(root, 'snapshots', COMMIT, name)
    await mkdir(join(pointer, '..'), { recursive: true })
    await mkdir(join(root, 'blobs'), { recursive: true })
    await writeFile(join(root, 'blobs', etagOf(files[name]!)), files[name]!)
    await symlink(`${name.includes('/') ? '../' : ''}../../blobs/${etagOf(files[name]!)}`, pointer)
  }
  await mkdir(join(root, 'refs'))
  await writeFile(join(root, 'refs/main'), COMMIT)
  await mkdir(join(here.settings.cache, '.locks', 'models--owner--some-model'), { recursive: true })
  await writeFile(join(here.settings.cache, '.locks', 'models--owner--some-model', `${etagOf(files['vae/config.json']!)}.lock`), '')
  await mkdir(join(root, '.no_exist', COMMIT), { recursive: true })
  const path = await here.resolve()
  assert.equal(path, join(root, 'snapshots', COMMIT))
  assert.deepEqual(here.hub.requests, [])

  await t.test('a part that its index names and that is not there is fetched', async () => {
    await rm(join(path, 'vae'), { recursive: true })
    await rejects(here.resolve(NAME, { offline: true }), 'HUB_OFFLINE', /or a part/)
    await here.resolve()
    assert.deepEqual(here.hub.downloads, [], 'its blobs are there')
    await truncate(join(root, 'blobs', etagOf(files['vae/diffusion_pytorch_model.safetensors']!)), 10)
    await rm(join(path, 'vae'), { recursive: true })
    await here.resolve()
    assert.deepEqual(here.hub.downloads, ['vae/diffusion_pytorch_model.fp16.safetensors'])
  })
})

/** Puts an error in place of functions of `node:fs/promises`, wherever they are imported. */
function failing(t: TestContext, code: string, ...names: ('symlink' | 'link')[]): void {
  for (const name of names) t.mock.method(fs, name, () => Promise.reject(Object.assign(new Error(code), { code })))
  syncBuiltinESMExports()
  t.after(() => {
    t.mock.restoreAll()
    syncBuiltinESMExports()
  })
}

test('where there are no symbolic links, paths are hard links, or the files themselves', async (t) => {
  await t.test('hard links', async (t) => {
    const here = await world(t)
    failing(t, 'EPERM', 'symlink')
    const path = await here.resolve()
    await checkSnapshot(path, here.repository.files)
    const blob = join(folderOf(here), 'blobs', etagOf(here.repository.files[UNET]!))
    assert.equal((await stat(join(path, UNET))).ino, (await stat(blob)).ino)
  })
  await t.test('no links at all', async (t) => {
    const files = repositoryFiles()
    // Two files of one content.
    files['tokenizer/special_tokens_map.json'] = files['tokenizer/vocab.json']!
    const here = await world(t, files)
    failing(t, 'EROFS', 'symlink', 'link')
    const path = await here.resolve()
    const names = [...NEEDED, 'tokenizer/special_tokens_map.json']
    await checkSnapshot(path, files, names)
    assert.deepEqual(await readdir(join(folderOf(here), 'blobs')), [], 'nothing is there twice')
    const before = here.hub.requests.length
    assert.equal(await here.resolve(), path)
    assert.equal(here.hub.requests.length, before)
    // Another commit with the same blob, which Python's tools have left.
    await writeFile(join(folderOf(here), 'blobs', etagOf(files[UNET]!)), files[UNET]!)
    here.repository.commit = 'e'.repeat(40)
    const other = await here.resolve(`${NAME}@${here.repository.commit}`)
    await checkSnapshot(other, files, names)
    assert.deepEqual(await readdir(join(folderOf(here), 'blobs')), [etagOf(files[UNET]!)])
    assert.ok(!here.hub.downloads.slice(names.length).includes(UNET))
  })
})

/** The bundled model as a repository of the Hub. */
async function bundledFiles(): Promise<Record<string, Uint8Array>> {
  const entries = await readdir(tiny, { recursive: true, withFileTypes: true })
  const paths = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name))
  return Object.fromEntries(await Promise.all(paths.map(async (path) => [path.slice(tiny.length + 1), await readFile(path)] as const)))
}

test('a file that is damaged in the cache is fetched again, and a run that cannot ask the Hub says what is damaged', async (t) => {
  const files = await bundledFiles()
  const here = await world(t, files)
  const { settings, events, hub } = here
  const read = (others: Partial<HubSettings> = {}) =>
    readModel(NAME, {}, { settings: { ...settings, ...others }, onEvent: (event) => events.push(event) })
  const expected = await read()
  const path = await here.resolve()
  const vae = 'vae/diffusion_pytorch_model.safetensors'
  const blob = (name: string) => join(folderOf(here), 'blobs', etagOf(files[name]!))
  const damages: [name: string, damage: () => Promise<unknown>, received: RegExp][] = [
    [vae, () => truncate(blob(vae), 1000), /received 1000 bytes instead of \d+; it is fetched again$/],
    [vae, () => writeFile(blob(vae), new Uint8Array(files[vae]!.length)), /received another content/],
    ['vae/config.json', () => truncate(blob('vae/config.json'), 0), /received 0 bytes/],
    ['tokenizer/vocab.json', () => truncate(blob('tokenizer/vocab.json'), 99), /received 99 bytes/],
  ]
  for (const [name, damage, received] of damages) {
    await damage()
    const code = /\.json$/.test(name) ? /MODEL_INVALID|TOKENIZER_INVALID/ : /SAFETENSORS_INVALID/
    await assert.rejects(read({ offline: true }), { code, message: new RegExp(name) })
    await assert.rejects(read({ endpoint: 'http://hub.invalid', retryMs: 0 }), { code, message: new RegExp(name) })
    const before = hub.downloads.length
    events.length = 0
    const found = await read()
    assert.deepEqual(found.networks, expected.networks)
    assert.deepEqual(hub.downloads.slice(before), [name])
    const [warning] = events
    assert.ok(warning?.type === 'warning' && warning.code === 'CACHE_DAMAGED' && warning.path === join(path, name))
    assert.match(warning.message, received)
  }
  await t.test('a VAE apart from the model, too', async () => {
    await truncate(blob(vae), 1000)
    const before = hub.downloads.length
    // Without its config it has another number of groups, which is found out once it is whole again.
    await assert.rejects(readModel(tiny, { vae: `${NAME}/${vae}` }, { settings }), { code: 'MODEL_INVALID', message: /groups/ })
    assert.deepEqual(hub.downloads.slice(before), [vae])
  })
  await t.test('what is wrong on the Hub itself is fetched once, and said', async () => {
    const broken = { ...files, 'vae/config.json': Buffer.from('{') }
    hub.repositories['owner/broken'] = { commit: COMMIT, files: broken }
    const readBroken = () => readModel('owner/broken', {}, { settings })
    await assert.rejects(readBroken(), { code: 'MODEL_INVALID', message: /vae\/config\.json/ })
    const before = hub.downloads.length
    await assert.rejects(readBroken(), { code: 'MODEL_INVALID' })
    assert.equal(hub.downloads.length, before)
  })
})
