import assert from 'node:assert/strict'
import { readFile, rename, rm, symlink, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { toHalf } from '../../../lib/files/floats.js'
import { hashFiles } from '../../../lib/files/hashes.js'
import { readTensors, writeSafetensors } from '../../../lib/files/safetensors.js'
import type { ReadOptions } from '../../../lib/models/model.js'
import { ourName } from '../../../lib/models/names.js'
import { readModel } from '../../../lib/models/read.js'
import { sd1 } from '../../../lib/models/sd1.js'
import { tiny } from '../../fixtures/lora.js'
import { changeConfig as change, copyModel, tensor, unetFile, vaeFile } from '../../fixtures/models.js'
import { torchZip } from '../../fixtures/pickles.js'

test('the bundled model reads, every size from its configs', async () => {
  const model = await readModel(tiny)
  const { unet, text_encoder, vae } = model.networks
  assert.deepEqual(unet!.config, {
    in_channels: 4,
    out_channels: 4,
    block_out_channels: [64, 128, 192],
    down_block_types: ['CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'DownBlock2D'],
    up_block_types: ['UpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D'],
    layers_per_block: 1,
    num_attention_heads: [4, 4, 4],
    transformer_layers_per_block: [1, 1, 1],
    cross_attention_dim: 128,
    norm_num_groups: 32,
    norm_eps: 1e-5,
    flip_sin_to_cos: true,
    freq_shift: 0,
  })
  assert.deepEqual(text_encoder!.config, {
    hidden_size: 128,
    intermediate_size: 512,
    num_hidden_layers: 4,
    num_attention_heads: 4,
    max_position_embeddings: 77,
    vocab_size: 1267,
    layer_norm_eps: 1e-5,
    hidden_act: 'quick_gelu',
  })
  assert.deepEqual(vae!.config, {
    in_channels: 3,
    out_channels: 3,
    latent_channels: 4,
    block_out_channels: [16, 32, 64, 128],
    layers_per_block: 1,
    norm_num_groups: 8,
  })
  assert.deepEqual(model.scheduler, {
    numTrainTimesteps: 1000,
    betaStart: 0.00085,
    betaEnd: 0.012,
    betaSchedule: 'scaled_linear',
    predictionType: 'epsilon',
    rescaleBetasZeroSnr: false,
    timestepSpacing: 'leading',
    stepsOffset: 1,
    setAlphaToOne: false,
    clipSample: false,
    clipSampleRange: 1,
  })
  const { name, family, scalingFactor, shiftFactor, mostClipSkip, contextDim, latentChannels, factor, multiple, sampleSize } = model
  assert.deepEqual([name, family, scalingFactor, shiftFactor], ['tiny-sd', sd1, 0.30835, 0])
  assert.deepEqual([mostClipSkip, contextDim, latentChannels, factor, multiple], [4, 128, 4, 8, 32])
  assert.deepEqual(sampleSize, { width: 128, height: 128 })
  assert.equal(model.tokenizers.text_encoder!.length, 77)
  assert.deepEqual(
    [unet, vae, text_encoder].map((network) => [network!.architecture, network!.f32, network!.files[0]?.tensors.length]),
    [
      ['unet', undefined, 326],
      ['vae', 'activations', 188],
      ['clip', undefined, 68],
    ],
  )
})

test('weights are places in the file, counted from its start', async () => {
  const { networks } = await readModel(tiny)
  const entry = networks.unet!.files[0]?.tensors.find(({ name }) => name === 'conv_in.bias')
  assert.equal(entry?.dtype, 'F16')
  const bytes = (await readFile(join(tiny, unetFile))).subarray(entry.offset, entry.offset + 128)
  const halves = new Uint16Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + 128))
  const { data } = (await readTensors(join(tiny, unetFile), ['conv_in.bias'])).get('conv_in.bias') as { data: Float32Array }
  assert.deepEqual([...data].map(toHalf), [...halves])
  assert.ok(networks.text_encoder!.files[0]?.tensors.every(({ name }) => name.startsWith('text_model.')))
})

test('the configs of SD1.5, which leave much out, give its sizes', async (t) => {
  const folder = await copyModel(t)
  const blocks = ['CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'DownBlock2D']
  const unet = {
    attention_head_dim: 8,
    block_out_channels: [320, 640, 1280, 1280],
    cross_attention_dim: 768,
    down_block_types: blocks,
    sample_size: 64,
  }
  await writeFile(join(folder, 'unet/config.json'), JSON.stringify({ _class_name: 'UNet2DConditionModel', ...unet }))
  await change(folder, 'text_encoder/config.json', { hidden_size: 768 })
  await change(folder, 'vae/config.json', { scaling_factor: undefined })
  await writeFile(
    join(folder, 'scheduler/scheduler_config.json'),
    '{"_class_name":"PNDMScheduler","beta_start":0.00085,"beta_end":0.012,"beta_schedule":"scaled_linear"}',
  )
  const model = await readModel(folder)
  const { config } = model.networks.unet!
  assert.deepEqual(config.num_attention_heads, [8, 8, 8, 8])
  assert.deepEqual(config.up_block_types, ['UpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D'])
  assert.deepEqual([config.layers_per_block, config.in_channels, config.norm_num_groups], [2, 4, 32])
  assert.equal(model.scalingFactor, 0.18215)
  const { numTrainTimesteps, clipSample, predictionType, stepsOffset, setAlphaToOne } = model.scheduler
  assert.deepEqual([numTrainTimesteps, clipSample, predictionType, stepsOffset, setAlphaToOne], [1000, false, 'epsilon', 0, true])
})

test('where the SNR ends at zero DDIM begins at the last timestep, unless the config says otherwise', async (t) => {
  const folder = await copyModel(t)
  const file = 'scheduler/scheduler_config.json'
  const spacing = async (options?: ReadOptions) => (await readModel(folder, options)).scheduler.timestepSpacing
  const asked: ReadOptions = { predictionType: 'v_prediction', zeroTerminalSnr: true }
  await change(folder, file, { timestep_spacing: 'linspace' })
  assert.deepEqual([await spacing(), await spacing(asked)], ['linspace', 'trailing'])
  await change(folder, file, { rescale_betas_zero_snr: true, prediction_type: 'v_prediction' })
  assert.deepEqual([await spacing(), await spacing(asked)], ['linspace', 'linspace'])
  await change(folder, file, { timestep_spacing: undefined })
  assert.equal(await spacing(), 'trailing')
})

test('heads may differ per block', async (t) => {
  const folder = await copyModel(t)
  await change(folder, 'unet/config.json', { attention_head_dim: [2, 4, 8] })
  assert.deepEqual((await readModel(folder)).networks.unet!.config.num_attention_heads, [2, 4, 8])
  await change(folder, 'unet/config.json', { num_attention_heads: 16 })
  assert.deepEqual((await readModel(folder)).networks.unet!.config.num_attention_heads, [16, 16, 16])
})

test('what is not there is named', async (t) => {
  const folder = await copyModel(t)
  await assert.rejects(readModel(join(folder, 'none')), { name: 'LorafuseError', code: 'MODEL_NOT_FOUND', message: /none/ })
  await assert.rejects(readModel(join(folder, unetFile)), { code: 'MODEL_UNSUPPORTED', message: /diffusers folder/ })
  const parts = [
    'unet',
    'text_encoder',
    'vae',
    'tokenizer',
    'scheduler',
    'unet/config.json',
    'scheduler/scheduler_config.json',
    unetFile,
    vaeFile,
  ]
  for (const part of parts) {
    const path = join(folder, part)
    await rename(path, `${folder}-aside`)
    await assert.rejects(readModel(folder), { code: 'MODEL_INCOMPLETE', message: new RegExp(path.replaceAll('.', '\\.')) }, part)
    await rename(`${folder}-aside`, path)
  }
  await readModel(folder)
  await rm(join(folder, unetFile))
  await assert.rejects(readModel(folder), { code: 'MODEL_INCOMPLETE', message: /diffusion_pytorch_model\.safetensors/ })
  const pickle = join(folder, 'unet/diffusion_pytorch_model.bin')
  await writeFile(pickle, torchZip([tensor('conv_in.weight')]))
  const [file] = (await readModel(folder)).networks.unet!.files
  assert.equal(file!.path, pickle)
  assert.deepEqual(
    file!.tensors.map(({ name }) => name),
    ['conv_in.weight'],
  )
})

test('a truncated weight file is refused', async (t) => {
  const folder = await copyModel(t)
  await truncate(join(folder, vaeFile), 90)
  await assert.rejects(readModel(folder), { code: 'SAFETENSORS_INVALID', message: new RegExp(vaeFile) })
})

test('old names of VAE attention are renamed, and only those', async (t) => {
  const folder = await copyModel(t)
  const old = ['query', 'key', 'value', 'proj_attn', 'group_norm'].map((layer) => `encoder.mid_block.attentions.0.${layer}.weight`)
  await writeSafetensors(
    join(folder, vaeFile),
    [...old, 'decoder.conv_in.weight'].map((name) => tensor(name)),
  )
  const names = (await readModel(folder)).networks.vae!.files[0]?.tensors.map(({ name }) =>
    name.replace('encoder.mid_block.attentions.0.', ''),
  )
  assert.deepEqual(names?.sort(), [
    'decoder.conv_in.weight',
    'group_norm.weight',
    'to_k.weight',
    'to_out.0.weight',
    'to_q.weight',
    'to_v.weight',
  ])
})

test('shards are read as their index lists them, and a missing one is named', async (t) => {
  const folder = await copyModel(t)
  await rm(join(folder, unetFile))
  const shard = (i: number) => join(folder, `unet/diffusion_pytorch_model-0000${i}-of-00002.safetensors`)
  const [a, b, c] = ['conv_in.bias', 'conv_norm_out.bias', 'conv_out.bias'] as const
  await writeSafetensors(shard(1), [tensor(a)])
  await writeSafetensors(shard(2), [tensor(b, 'BF16'), tensor(c, 'F16')])
  const map = Object.fromEntries(
    [a, b, c].map((name) => [
      name,
      shard(name === a ? 1 : 2)
        .split('/')
        .at(-1),
    ]),
  )
  await writeFile(join(folder, 'unet/diffusion_pytorch_model.safetensors.index.json'), JSON.stringify({ weight_map: map }))
  const model = await readModel(folder)
  assert.deepEqual(
    model.networks.unet!.files.map(({ path, tensors }) => [path, tensors.map(({ name, dtype }) => `${name} ${dtype}`)]),
    [
      [shard(1), [`${a} F32`]],
      [shard(2), [`${b} BF16`, `${c} F16`]],
    ],
  )
  assert.equal(await model.hash(), await hashFiles([shard(1), shard(2)]))
  await rm(shard(2))
  await assert.rejects(readModel(folder), { code: 'MODEL_INCOMPLETE', message: /00002-of-00002/ })
})

test('the fp16 variant serves where there is no other', async (t) => {
  const folder = await copyModel(t)
  const half = join(folder, 'unet/diffusion_pytorch_model.fp16.safetensors')
  await writeSafetensors(half, [tensor('conv_in.bias', 'F16')])
  assert.equal((await readModel(folder)).networks.unet!.files[0]?.path, join(folder, unetFile))
  await rm(join(folder, unetFile))
  assert.equal((await readModel(folder)).networks.unet!.files[0]?.path, half)
})

test('of several sets of weights the first that is whole is read, and what is missing of the first is named', async (t) => {
  const folder = await copyModel(t)
  await rm(join(folder, unetFile))
  const put = (name: string) => writeSafetensors(join(folder, 'unet', name), [tensor('conv_in.bias')])
  const shards = [1, 2].map((i) => `diffusion_pytorch_model-0000${i}-of-00002.safetensors`)
  const index = join(folder, 'unet/diffusion_pytorch_model.safetensors.index.json')
  await writeFile(index, JSON.stringify({ weight_map: Object.fromEntries(shards.map((shard) => [shard, shard])) }))
  await put(shards[0]!)
  const read = async () => (await readModel(folder)).networks.unet!.files.map(({ path }) => path.slice(folder.length + '/unet/'.length))
  await assert.rejects(read(), { code: 'MODEL_INCOMPLETE', message: /00002-of-00002/ })
  await writeFile(join(folder, 'unet/diffusion_pytorch_model.bin'), torchZip([tensor('conv_in.bias')]))
  assert.deepEqual(await read(), ['diffusion_pytorch_model.bin'])
  // As the Hub's cache has what an interrupted download left beside the small weights.
  await put('diffusion_pytorch_model.fp16.safetensors')
  assert.deepEqual(await read(), ['diffusion_pytorch_model.fp16.safetensors'])
  await symlink('nowhere', join(folder, unetFile))
  assert.deepEqual(await read(), ['diffusion_pytorch_model.fp16.safetensors'])
  await put(shards[1]!)
  assert.deepEqual(await read(), shards)
})

test('hashes are computed when they are first asked for, and once', async (t) => {
  const folder = await copyModel(t)
  const { hash, legacyHash } = await readModel(folder)
  await writeSafetensors(join(folder, unetFile), [tensor('another')])
  assert.equal(await hash(), await hashFiles([join(folder, unetFile)]))
  assert.match(await legacyHash(), /^[0-9a-f]{8}$/)
  const before = await hash()
  await rm(join(folder, unetFile))
  assert.equal(await hash(), before)
})

test("a tensor's other spelling leads to ours, and ours to itself", () => {
  const pairs = [
    ['vae', 'decoder.mid_block.attentions.0.proj_attn.bias', 'decoder.mid_block.attentions.0.to_out.0.bias'],
    ['vae', 'encoder.mid_block.attentions.0.key.weight', 'encoder.mid_block.attentions.0.to_k.weight'],
    ['clip', 'encoder.layers.11.mlp.fc1.weight', 'text_model.encoder.layers.11.mlp.fc1.weight'],
    ['clip', 'final_layer_norm.bias', 'text_model.final_layer_norm.bias'],
    ['unet', 'mid_block.attentions.0.proj_in.weight', 'mid_block.attentions.0.proj_in.weight'],
    ['vae', 'encoder.conv_in.weight', 'encoder.conv_in.weight'],
  ] as const
  for (const [architecture, theirs, ours] of pairs) {
    assert.equal(ourName(architecture, theirs), ours)
    assert.equal(ourName(architecture, ours), ours)
  }
})
