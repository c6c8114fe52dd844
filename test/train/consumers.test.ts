import assert from 'node:assert/strict'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { readHeader } from '../../lib/files/safetensors.js'
import { train } from '../../lib/train/run.js'
import {
  addnetHashes,
  type Loaded,
  ldmModules,
  listedAsLora,
  type Modules,
  metadataAsA1111,
  metadataAsComfyUI,
  parseFile,
  readAsA1111,
  readAsComfyUI,
  readAsDiffusers,
  readAsKohya,
} from '../fixtures/consumers.js'
import { copyImages } from '../fixtures/images.js'
import { temporaryFolder } from '../fixtures/temporary.js'
import { root } from './golden.js'
import { goldenModel } from './hollow.js'

const model = `${root}test/fixtures/golden-sd1/model`
const config = { layers: 2, attention: [true, true, false] }
const [rank, alpha] = [3, 1.5]

/** The weights of a UNet's linear layers and 1×1 convolutions in its transformers, by their modules' paths. */
function transformers(shapes: [string, number[]][]): Modules {
  const flat = (shape: number[]) => shape.length === 2 || (shape.length === 4 && shape[2] === 1)
  const chosen = shapes.filter(([name, shape]) => /\.attentions\..*\.weight$/.test(name) && flat(shape))
  return new Map(chosen.map(([name, shape]) => [name.replace(/\.weight$/, ''), shape]))
}

async function unetOf(folder: string): Promise<Modules> {
  const { tensors } = await readHeader(join(folder, 'unet/diffusion_pytorch_model.safetensors'))
  return transformers(tensors.map(({ name, shape }) => [name, shape]))
}

/** What a training writes, as its bytes are, and the folder. */
async function trained(t: TestContext, from = model) {
  const folder = await temporaryFolder(t)
  const images = await copyImages(folder, 3)
  const output = join(folder, 'out')
  const size = { resolution: 64, bucketMin: 64, steps: 2, saveEvery: 1 }
  const { path } = await train({
    model: from,
    images,
    output,
    name: 'my style',
    rank,
    alpha,
    ...size,
    savePrecision: 'f32',
    learningRate: 0.01,
  })
  return { output, file: parseFile(await readFile(path)) }
}

function assertAll({ modules, left }: Loaded, paths: Iterable<string>): void {
  assert.deepEqual(left, [])
  assert.deepEqual([...modules.keys()].sort(), [...paths].sort())
  for (const [path, found] of modules) assert.deepEqual(found, { rank, alpha }, path)
}

test('what a training writes is read whole as kohya, diffusers, A1111 and ComfyUI read it', async (t) => {
  const { file } = await trained(t)
  const unet = await unetOf(model)
  const ldm = ldmModules(unet, config)
  assert.equal(ldm.size, unet.size)
  assertAll(readAsKohya(file, unet), unet.keys())
  assertAll(readAsDiffusers(file, unet), unet.keys())
  assertAll(readAsA1111(file, ldm), ldm.keys())
  assertAll(readAsComfyUI(file, unet, config), ldm.keys())
})

test("so is what a training of SD2 writes, whose projections are matrices, as in kohya's of a folder", async (t) => {
  const folder = await goldenModel('golden-sd2')
  const { file } = await trained(t, folder)
  const [unet, sd2] = [await unetOf(folder), { layers: 2, attention: [true, true, true, false] }]
  assert.equal(unet.get('mid_block.attentions.0.proj_in')!.length, 2)
  const ldm = ldmModules(unet, sd2)
  assertAll(readAsKohya(file, unet), unet.keys())
  assertAll(readAsDiffusers(file, unet), unet.keys())
  assertAll(readAsA1111(file, ldm), ldm.keys())
  assertAll(readAsComfyUI(file, unet, sd2), ldm.keys())
})

test("the 192 modules of Stable Diffusion 1.5 stand at LDM's places for A1111 and ComfyUI", async () => {
  const names = JSON.parse(await readFile(`${root}test/fixtures/golden-names/sd15.json`, 'utf8')) as Record<
    string,
    Record<string, number[]>
  >
  const unet = transformers(Object.entries(names.unet!))
  const sd15 = { layers: 2, attention: [true, true, true, false] }
  const ldm = ldmModules(unet, sd15)
  assert.equal(ldm.size, 192)
  // A few from runwayml/stable-diffusion-v1-5:v1-5-pruned.safetensors.
  for (const path of ['input_blocks.1.1.proj_in', 'input_blocks.8.1.transformer_blocks.0.attn2.to_k', 'middle_block.1.proj_out'])
    assert.ok(ldm.has(`diffusion_model.${path}`), path)
  for (const path of ['output_blocks.3.1.proj_in', 'output_blocks.11.1.transformer_blocks.0.ff.net.0.proj'])
    assert.ok(ldm.has(`diffusion_model.${path}`), path)
  assert.ok(![...ldm.keys()].some((path) => /input_blocks\.(0|3|6|9|1\d)\.|output_blocks\.[012]\./.test(path)))
  const file = { bytes: Buffer.alloc(0), header: '', metadata: {}, dataStart: 0, shapes: new Map(Object.entries(names.lora!)) }
  const numbers = () => Float32Array.of(1)
  for (const loaded of [readAsA1111({ ...file, numbers }, ldm), readAsComfyUI({ ...file, numbers }, unet, sd15)]) {
    assert.deepEqual(loaded.left, [])
    assert.deepEqual([...loaded.modules.keys()].sort(), [...ldm.keys()].sort())
  }
  for (const loaded of [readAsKohya({ ...file, numbers }, unet), readAsDiffusers({ ...file, numbers }, unet)]) {
    assert.deepEqual(loaded.left, [])
    assert.equal(loaded.modules.size, 192)
  }
})

test("A1111's card shows what it shows of kohya's files, and knows it by the same hashes", async (t) => {
  const { file } = await trained(t)
  const metadata = metadataAsA1111(file)
  const { model, legacy } = addnetHashes(file)
  assert.equal(metadata.sshs_model_hash, model)
  // Of a file this small, the part that the old hash covers is empty.
  assert.ok(file.bytes.length < 0x100000)
  assert.equal(metadata.sshs_legacy_hash, legacy)
  // The alias, and the family: SD1 unless these say otherwise (extensions-builtin/Lora/network.py).
  assert.equal(metadata.ss_output_name, 'my style')
  assert.ok(!String(metadata.ss_base_model_version).startsWith('sdxl_'))
  assert.equal(metadata.ss_v2, 'False')
  // The card's fields (ui_edit_user_metadata.py).
  for (const key of ['ss_sd_model_name', 'ss_clip_skip', 'ss_network_module', 'ss_resolution', 'ss_num_train_images'])
    assert.ok(typeof metadata[key] === 'string' && metadata[key] !== '', key)
  const started = Number(metadata.ss_training_started_at)
  assert.ok(Math.abs(started - Date.now() / 1000) < 600)
  const { buckets } = metadata.ss_bucket_info as { buckets: Record<string, { resolution: number[]; count: number }> }
  assert.deepEqual(Object.values(buckets), [{ resolution: [64, 64], count: 3 }])
  assert.deepEqual(metadata.ss_dataset_dirs, { images: { n_repeats: 1, img_count: 3 } })
  const tags = metadata.ss_tag_frequency as Record<string, Record<string, number>>
  const counts = Object.values(tags).flatMap((folder) => Object.values(folder))
  assert.ok(counts.length > 0 && counts.every((count) => Number.isInteger(count)))
})

test('ComfyUI shows the metadata: its header is below 1 MiB', async (t) => {
  const { file } = await trained(t)
  assert.equal(metadataAsComfyUI(file), file.metadata)
  assert.ok(Object.values(file.metadata).every((value) => typeof value === 'string'))
})

test('nothing but LoRAs is listed as one', async (t) => {
  const { output } = await trained(t)
  const listed = listedAsLora(await readdir(output, { recursive: true }))
  assert.deepEqual(listed.sort(), ['my style-step00000001.safetensors', 'my style-step00000002.safetensors', 'my style.safetensors'])
})
