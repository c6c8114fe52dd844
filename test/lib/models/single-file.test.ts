import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import type { Model, ReadOptions } from '../../../lib/models/model.js'
import { readModel } from '../../../lib/models/read.js'
import { networksIn } from '../../../lib/models/single-file.js'
import { type FamilyName, leftovers, singleFileTensors, smallModel, writeFolder, writeLayouts } from '../../fixtures/checkpoints.js'
import { chunksOf } from '../../fixtures/clip.js'
import { torchZip } from '../../fixtures/pickles.js'
import { type RawTensor, writeRaw } from '../../fixtures/safetensors.js'
import { temporaryFolder } from '../../fixtures/temporary.js'
import { long, onlyLong } from '../../long.js'

const families: FamilyName[] = ['sd1', 'sd2', 'sdxl']

const marker = (name: string): RawTensor => ({ name, dtype: 'F32', shape: [0], data: new Float32Array(0) })
const without = (tensors: RawTensor[], prefix: string) => tensors.filter(({ name }) => !name.startsWith(prefix))

/** Each network's weights by our names: shapes, without the ends of 1×1 kernels, and bytes. */
async function contents({ networks }: Model): Promise<Record<string, Map<string, [number[], string]>>> {
  const found: Record<string, Map<string, [number[], string]>> = {}
  for (const [name, { files }] of Object.entries(networks)) {
    const weights = new Map<string, [number[], string]>()
    for (const { path, tensors } of files) {
      const bytes = await readFile(path)
      for (const { name: weight, shape, offset } of tensors) {
        const size = 2 * shape.reduce((product, length) => product * length, 1)
        const matrix = shape.slice(0, shape.length === 4 && shape[2] === 1 ? 2 : 4)
        weights.set(weight, [
          matrix,
          createHash('sha1')
            .update(bytes.subarray(offset, offset + size))
            .digest('hex'),
        ])
      }
    }
    found[name] = weights
  }
  return found
}

const sorted = (networks: Record<string, Map<string, unknown>>) =>
  Object.fromEntries(Object.entries(networks).map(([name, weights]) => [name, [...weights].sort(([a], [b]) => (a < b ? -1 : 1))]))

async function smallFile(t: TestContext, family: FamilyName, change = (tensors: RawTensor[]) => tensors, metadata = {}) {
  const path = join(await temporaryFolder(t), 'model.safetensors')
  await writeRaw(path, change(singleFileTensors(family, smallModel(family))), metadata)
  return path
}

for (const family of families) {
  test(
    `a small ${family} model is the same from a folder, safetensors, and both pickles, leftovers ignored`,
    family === 'sd2' ? onlyLong : {},
    async (t) => {
      const folder = await temporaryFolder(t)
      const model = smallModel(family)
      const single = singleFileTensors(family, model)
      await writeLayouts(folder, model, [...single, ...leftovers()])
      const expected = await readModel(join(folder, 'folder'))
      const weights = await contents(expected)
      const names = ['a.safetensors', 'a.ckpt', 'a.pt']
      // In the short run the pickles of one family.
      for (const name of long || family === 'sdxl' ? names : names.slice(0, 1)) {
        const found = await readModel(join(folder, name))
        assert.equal(found.name, name)
        assert.equal(found.family, expected.family)
        for (const network of Object.keys(expected.networks)) {
          assert.deepEqual(found.networks[network]!.config, expected.networks[network]!.config, network)
        }
        const all = await contents(found)
        const turned = all.text_encoder_2?.get('text_projection')
        if (turned) {
          // OpenCLIP's is held the other way round, which the graph knows.
          assert.deepEqual(turned[0], [128, 128])
          all.text_encoder_2!.delete('text_projection')
          all.text_encoder_2!.set('text_projection.weight', weights.text_encoder_2!.get('text_projection.weight')!)
        }
        assert.deepEqual(sorted(all), sorted(weights))
        assert.deepEqual({ ...found.scheduler }, { ...expected.scheduler })
        assert.deepEqual(found.sampleSize, expected.sampleSize)
        for (const [network, tokenizer] of Object.entries(expected.tokenizers)) {
          for (const text of ['a photo of a café', ''])
            assert.deepEqual(chunksOf(found.tokenizers[network]!, text), chunksOf(tokenizer, text))
        }
      }
    },
  )
}

test('a key v_pred, a key ztsnr and modelspec tell what a model predicts', async (t) => {
  const read = async (family: FamilyName, keys: string[], metadata: Record<string, string> = {}, options: ReadOptions = {}) => {
    const path = await smallFile(t, family, (tensors) => [...tensors, ...keys.map(marker)], metadata)
    const { scheduler, foundBy } = await readModel(path, options)
    return { predicts: scheduler.predictionType, zero: scheduler.rescaleBetasZeroSnr, foundBy }
  }
  assert.deepEqual(await read('sdxl', []), {
    predicts: 'epsilon',
    zero: false,
    foundBy: 'SDXL, ε-prediction, found by its keys and shapes',
  })
  const both = await read('sdxl', ['v_pred', 'ztsnr'])
  assert.deepEqual(both, {
    predicts: 'v_prediction',
    zero: true,
    foundBy: 'SDXL, v-prediction with zero terminal SNR, found by the key v_pred',
  })
  const alone = await read('sdxl', ['ztsnr'])
  assert.deepEqual([alone.predicts, alone.zero], ['epsilon', false])
  assert.deepEqual(await read('sdxl', ['ztsnr'], {}, { predictionType: 'v_prediction' }), {
    ...both,
    foundBy: 'SDXL, v-prediction with zero terminal SNR, as asked for',
  })
  await assert.rejects(read('sdxl', ['v_pred', 'ztsnr'], {}, { predictionType: 'epsilon' }), {
    code: 'MODEL_UNSUPPORTED',
    message: /received epsilon, .*; use --prediction-type v_prediction or --zero-terminal-snr=false$/,
  })
  assert.equal((await read('sd1', [], { 'modelspec.prediction_type': 'v' })).predicts, 'v_prediction')
  assert.equal((await read('sd1', [], { 'modelspec.prediction_type': 'epsilon' })).predicts, 'epsilon')
  await assert.rejects(read('sd1', [], { 'modelspec.prediction_type': 'rf' }), { code: 'MODEL_UNSUPPORTED', message: /"rf"/ })
})

test("SD2's model of 768 px is told from that of 512 by its step, or by how far its norms scatter", async (t) => {
  const scattered = (by: number) => (tensors: RawTensor[]) =>
    tensors.map((tensor) =>
      tensor.name === 'model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias'
        ? { ...tensor, dtype: 'F32', data: Float32Array.from({ length: tensor.shape[0]! }, (_, i) => (i % 2 === 0 ? by : -by)) }
        : tensor,
    )
  const near = await readModel(await smallFile(t, 'sd2', scattered(0.08)))
  assert.equal(near.scheduler.predictionType, 'epsilon')
  assert.deepEqual(near.sampleSize, { width: 512, height: 512 })
  const far = await readModel(await smallFile(t, 'sd2', scattered(0.1)))
  assert.equal(far.scheduler.predictionType, 'v_prediction')
  assert.match(far.foundBy, /norms/)
  assert.deepEqual(far.sampleSize, { width: 768, height: 768 })
})

test('a file without VAE or text encoder says so, and which option has it', async (t) => {
  const noVae = await smallFile(t, 'sd1', (tensors) => without(tensors, 'first_stage_model.'))
  await assert.rejects(readModel(noVae), { code: 'MODEL_INCOMPLETE', message: /the VAE .*--vae/ })
  const noText = await smallFile(t, 'sdxl', (tensors) => without(tensors, 'conditioner.embedders.1'))
  await assert.rejects(readModel(noText), { code: 'MODEL_INCOMPLETE', message: /second text encoder .*--text-encoder/ })
})

test('VAE and text encoders come from other files and folders where options name them', async (t) => {
  const folder = await temporaryFolder(t)
  const model = smallModel('sdxl')
  await writeFolder(join(folder, 'folder'), model)
  const tensors = singleFileTensors('sdxl', model)
  const parts = { vae: 'first_stage_model.', text: 'conditioner.' }
  for (const [name, prefix] of Object.entries(parts)) {
    await writeRaw(
      join(folder, `${name}.safetensors`),
      tensors.filter((tensor) => tensor.name.startsWith(prefix)),
    )
  }
  const bare = tensors.filter(({ name }) => name.startsWith(parts.vae)).map((tensor) => ({ ...tensor, name: tensor.name.slice(18) }))
  await writeFile(join(folder, 'bare.pt'), torchZip(bare))
  await writeRaw(join(folder, 'unet.safetensors'), without(without(tensors, parts.vae), parts.text))
  const read = (vae: string, ...textEncoder: string[]) =>
    readModel(join(folder, 'unet.safetensors'), {
      vae: join(folder, vae),
      textEncoder: textEncoder.map((path) => join(folder, path)),
    })
  const expected = (await readModel(join(folder, 'folder'))).networks
  const places: [vae: string, ...text: string[]][] = [
    ['vae.safetensors', 'text.safetensors'],
    ['bare.pt', 'folder'],
    ['folder/vae/diffusion_pytorch_model.safetensors', 'folder/text_encoder', 'text.safetensors'],
    ['folder/vae', 'text.safetensors'],
  ]
  for (const place of places) {
    const { networks } = await read(...place)
    for (const name of Object.keys(expected)) assert.deepEqual(networks[name]!.config, expected[name]!.config, `${place} ${name}`)
    for (const name of ['vae', 'text_encoder']) {
      const names = (files: typeof expected) => files[name]!.files.flatMap((file) => file.tensors.map((tensor) => tensor.name)).sort()
      assert.deepEqual(names(networks), names(expected))
    }
  }
  await assert.rejects(read('vae.safetensors', 'folder/text_encoder', 'folder/text_encoder'), {
    code: 'MODEL_UNSUPPORTED',
    message: /^Expected .* once but received another at .*; name each network once$/,
  })
  const sd1 = await smallFile(t, 'sd1')
  await assert.rejects(readModel(sd1, { textEncoder: [join(folder, 'text.safetensors')] }), {
    code: 'MODEL_UNSUPPORTED',
    message: /received a text_encoder_2 of another family/,
  })
  await assert.rejects(read('text.safetensors', 'folder'), { code: 'MODEL_INCOMPLETE', message: /a VAE/ })
  await assert.rejects(read('none', 'folder'), { code: 'MODEL_NOT_FOUND' })
})

test('CLIP without text_model., and the last layer of OpenCLIP, which SD2 does not use', async (t) => {
  const old = await smallFile(t, 'sd1', (tensors) => tensors.map((tensor) => ({ ...tensor, name: tensor.name.replace('text_model.', '') })))
  assert.equal((await readModel(old)).networks.text_encoder!.config.num_hidden_layers, 3)
  const layers = (tensors: RawTensor[]) =>
    Array.from({ length: 24 }, (_, i) =>
      tensors
        .filter(({ name }) => name.includes('resblocks.0.'))
        .map((tensor) => ({ ...tensor, name: tensor.name.replace('.0.', `.${i}.`) })),
    ).flat()
  const deep = await smallFile(t, 'sd2', (tensors) => [...tensors.filter(({ name }) => !name.includes('resblocks')), ...layers(tensors)])
  const { config, files } = (await readModel(deep)).networks.text_encoder!
  assert.equal(config.num_hidden_layers, 23)
  assert.ok(files[0]!.tensors.some(({ name }) => name.includes('layers.22.')))
  assert.ok(!files[0]!.tensors.some(({ name }) => name.includes('layers.23.')))
})

test("SD2's text encoder under transformers' names loses its last layer too, alone and in a whole file", () => {
  const layers = (count: number, width: number) => {
    const shapes: [string, number[]][] = [
      ['embeddings.token_embedding.weight', [49_408, width]],
      ['embeddings.position_embedding.weight', [77, width]],
      ...Array.from({ length: count }, (_, i): [string, number[]] => [`encoder.layers.${i}.mlp.fc1.weight`, [4 * width, width]]),
      ['final_layer_norm.weight', [width]],
    ]
    return shapes
  }
  const read = (prefix: string, shapes: [string, number[]][]) => {
    const tensors = shapes.map(([name, shape]) => ({ name: prefix + name, dtype: 'F16', shape, offset: 0, byteLength: 0 }))
    const [[network, parts] = []] = Object.entries(networksIn({ path: 'file', metadata: {}, tensors }))
    const { num_hidden_layers: used, hidden_act: act } = parts!.config.json
    const names = parts!.files[0]!.tensors.map(({ name }) => name)
    assert.ok(names.includes('text_model.final_layer_norm.weight'))
    assert.equal(names.filter((name) => name.includes('.layers.')).length, used)
    return [network, used, act]
  }
  for (const prefix of ['', 'text_model.', 'cond_stage_model.transformer.text_model.']) {
    assert.deepEqual(read(prefix, layers(24, 1024)), ['text_encoder', 23, 'gelu'], prefix)
    assert.deepEqual(read(prefix, layers(23, 1024)), ['text_encoder', 23, 'gelu'], prefix)
    assert.deepEqual(read(prefix, layers(12, 768)), ['text_encoder', 12, 'quick_gelu'], prefix)
  }
  assert.deepEqual(read('text_model.', layers(32, 1280)), ['text_encoder_2', 32, 'gelu'])
})

test('q, k and v of unlike sizes in one tensor are refused, as nothing says where one ends', async (t) => {
  const path = await smallFile(t, 'sdxl', (tensors) =>
    tensors.map((tensor) => {
      if (!tensor.name.endsWith('resblocks.0.attn.in_proj_weight')) return tensor
      const [rows = 0, columns = 0] = tensor.shape
      return { ...tensor, shape: [rows + 2, columns], data: new Uint16Array((rows + 2) * columns) }
    }),
  )
  await assert.rejects(readModel(path), { code: 'MODEL_INVALID', message: /as many rows of q, k and v in tensor ".*layers\.0"/ })
})

test('weights with scales beside them are refused, as no scale may be dropped in silence', async (t) => {
  const key = 'model.diffusion_model.input_blocks.1.1.proj_in.scale_weight'
  const path = await smallFile(t, 'sdxl', (tensors) => [...tensors, marker(key)])
  await assert.rejects(readModel(path), { code: 'MODEL_UNSUPPORTED', message: /without scales in .* but received ".*scale_weight"; use / })
})

test("other models' files are refused by their names", async (t) => {
  const folder = await temporaryFolder(t)
  const names: [keys: string[], message: RegExp][] = [
    [['lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight'], /a LoRA/],
    [['unet.down_blocks.0.attentions.0.proj_in.lora_A.weight'], /a LoRA/],
    [['control_model.input_blocks.0.0.weight'], /a ControlNet/],
    [['first_stage_model.encoder.down.0.block.0.conv1.weight'], /a VAE alone/],
    [['text_model.encoder.layers.0.mlp.fc1.weight'], /a text encoder alone/],
    [['model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight'], /Stable Diffusion 3/],
    [['double_blocks.0.img_attn.qkv.weight'], /FLUX/],
    [['emb_params'], /a textual inversion/],
    [['conv_in.weight', 'down_blocks.0.resnets.0.conv1.weight'], /a part of a diffusers folder/],
    [[], /without tensors/],
    [
      ['model.diffusion_model.layers.0.attention.qkv.weight', 'first_stage_model.decoder.up.0.block.0.conv1.weight'],
      /another architecture/,
    ],
    [['x'], /weights of another kind/],
  ]
  for (const [keys, message] of names) {
    const path = join(folder, 'file.safetensors')
    await writeRaw(path, keys.map(marker))
    await assert.rejects(readModel(path), { code: 'MODEL_UNSUPPORTED', message })
  }
  const inpainting = await smallFile(t, 'sd1', (tensors) =>
    tensors.map((tensor) =>
      tensor.name === 'model.diffusion_model.input_blocks.0.0.weight'
        ? { ...tensor, shape: [32, 9, 3, 3], data: new Uint16Array(32 * 81) }
        : tensor,
    ),
  )
  await assert.rejects(readModel(inpainting), { code: 'MODEL_UNSUPPORTED', message: /an inpainting model/ })
})

test('weights of a type that is not read are refused; a folder is no file', async (t) => {
  const wide = await smallFile(t, 'sd1', (tensors) =>
    tensors.map((tensor) =>
      tensor.name.endsWith('.out.2.bias') ? { ...tensor, dtype: 'F64', data: new Float64Array(tensor.shape[0]!) } : tensor,
    ),
  )
  await assert.rejects(readModel(wide), { code: 'MODEL_UNSUPPORTED', message: /out\.2\.bias.*F64; use the model's weights in one of them/ })
  const quantized = await smallFile(t, 'sd1', (tensors) =>
    tensors.map((tensor) =>
      tensor.name.endsWith('mlp.fc1.weight')
        ? { ...tensor, dtype: 'I8', data: new Uint8Array(tensor.shape[0]! * tensor.shape[1]!) }
        : tensor,
    ),
  )
  await assert.rejects(readModel(quantized), { code: 'MODEL_UNSUPPORTED', message: /mlp\.fc1\.weight.*I8/ })
  const folder = await temporaryFolder(t)
  await mkdir(join(folder, 'model.safetensors'))
  await assert.rejects(readModel(join(folder, 'model.safetensors')), { code: 'MODEL_INCOMPLETE' })
})
