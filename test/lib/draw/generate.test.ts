import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import sharp from 'sharp'
import { type GeneratedImage, type GenerateEvent, generate } from '../../../lib/draw/generate.js'
import { type LoraWeights, Pipeline } from '../../../lib/draw/pipeline.js'
import { readTexts } from '../../../lib/draw/png.js'
import { LorafuseError } from '../../../lib/errors.js'
import { hashFiles } from '../../../lib/files/hashes.js'
import { readHeader, readTensors, writeSafetensors } from '../../../lib/files/safetensors.js'
import type { Session } from '../../../lib/native.js'
import type { GenerateOptions } from '../../../lib/options/resolve.js'
import { samplerNames } from '../../../lib/options/samplers.js'
import { normal } from '../../../lib/random.js'
import { tiny, writeLora } from '../../fixtures/lora.js'
import { alteredModel } from '../../fixtures/models.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

const small = { model: tiny, steps: 3, cfg: 4, seed: 1, width: 64, height: 64 }

async function pixelsOf(png: Uint8Array): Promise<Buffer> {
  return sharp(png).removeAlpha().raw().toBuffer()
}

type AppliedLora = { path: string } & LoraWeights

/** The pixels of the first picture. */
async function draw(options: Omit<GenerateOptions, 'model' | 'prompt'> & { prompt?: string | string[] } = {}): Promise<Buffer> {
  const [image] = await generate({ prompt: 'an apple', ...small, ...options })
  return pixelsOf((image as GeneratedImage).png)
}

function difference(a: Buffer, b: Buffer): number {
  assert.equal(a.length, b.length)
  return a.reduce((sum, byte, i) => sum + Math.abs(byte - (b[i] as number)), 0) / a.length
}

test("a picture has the model's own size and says what it was made from", async () => {
  const images = await generate({ model: tiny, prompt: 'an apple', negativePrompt: 'red', steps: 2 })
  assert.equal(images.length, 1)
  const { png, width, height, path, parameters } = images[0] as GeneratedImage
  assert.deepEqual([width, height, path], [128, 128, undefined])
  const metadata = await sharp(png).metadata()
  assert.deepEqual([metadata.format, metadata.width, metadata.height], ['png', 128, 128])
  assert.equal(readTexts(png).get('parameters'), parameters)
  assert.match(
    parameters,
    /^an apple\nNegative prompt: red\nSteps: 2, Sampler: DDIM, Schedule type: Automatic, CFG scale: 7, Seed: 0, Size: 128x128, Model hash: [0-9a-f]{8}, Model: tiny-sd, Version: lorafuse /,
  )
})

test('the same seed gives the same bytes whatever the number of threads, another seed another picture', async () => {
  const one = await draw({ threads: 1 })
  assert.deepEqual(await draw({ threads: 2 }), one)
  assert.ok(difference(await draw({ seed: 2 }), one) > 1)
})

test('prompt, negative prompt, guidance, clip skip and size change the picture', async () => {
  const plain = await draw()
  for (const change of [{ prompt: 'a blue house' }, { negativePrompt: 'red' }, { cfg: 1 }, { clipSkip: 2 }] as const) {
    assert.ok(difference(await draw(change), plain) > 0.01, JSON.stringify(change))
  }
  const [wide] = await generate({ prompt: 'an apple', ...small, width: 96 })
  assert.deepEqual([wide?.width, wide?.height], [96, 64])
})

test('each sampler draws its own picture, the same one each time', async () => {
  const pictures = await Promise.all(samplerNames.map((sampler) => draw({ sampler })))
  for (const [i, picture] of pictures.entries()) {
    assert.deepEqual(await draw({ sampler: samplerNames[i] }), picture)
    for (const other of pictures.slice(0, i)) assert.ok(difference(other, picture) > 0.01, samplerNames[i])
  }
  assert.deepEqual(await draw(), pictures[0])
})

test('without guidance the negative prompt has no part', async () => {
  assert.deepEqual(await draw({ cfg: 1, negativePrompt: 'red' }), await draw({ cfg: 1 }))
})

test('LoRAs apply by option or by tag, with their weights, and stack', async (t) => {
  const folder = await temporaryFolder(t)
  await writeLora(join(folder, 'a.safetensors'), 1)
  await writeLora(join(folder, 'b.safetensors'), 2)
  const plain = await draw()
  const a = join(folder, 'a')
  const b = join(folder, 'b.safetensors')
  const applied = await draw({ lora: a })
  assert.ok(difference(applied, plain) > 1, 'a LoRA is to be seen')
  assert.deepEqual(await draw({ lora: `${a}:0` }), plain)
  assert.deepEqual(await draw({ prompt: 'an apple<lora:a:1>', loraDir: folder }), applied)
  const both = await draw({ lora: [a, `${b}:0.5`] })
  assert.ok(difference(both, applied) > 0.5, 'the second LoRA is to be seen')
  assert.ok(difference(await draw({ lora: [`${a}:0.5`, `${b}:0.5`, `${a}:0.5`] }), both) < 0.1, 'halves add up')
  assert.deepEqual(await draw({ prompt: 'an apple<lora:b:0.5>', loraDir: folder, lora: a }), both)
})

test("a LoRA's part on the text encoder has a weight of its own, and convolutions count", async (t) => {
  const folder = await temporaryFolder(t)
  const random = (shape: number[], index: number) => {
    const count = shape.reduce((product, length) => product * length, 1)
    return { shape, data: normal({ seed: 3, stream: 'adapters', index }, count).map((value) => value / 4), dtype: 'F32' as const }
  }
  const pair = (layer: string, down: number[], up: number[], index: number) => [
    { name: `${layer}.lora_down.weight`, ...random(down, 2 * index) },
    { name: `${layer}.lora_up.weight`, ...random(up, 2 * index + 1) },
  ]
  const te = pair('lora_te_text_model_encoder_layers_0_mlp_fc1', [2, 128], [512, 2], 0)
  const conv = pair('lora_unet_down_blocks_0_resnets_0_conv1', [2, 64, 3, 3], [64, 2, 1, 1], 1)
  const { tensors } = await readHeader(join(tiny, 'unet/diffusion_pytorch_model.safetensors'))
  assert.deepEqual(tensors.find(({ name }) => name === 'down_blocks.0.resnets.0.conv1.weight')?.shape, [64, 64, 3, 3])
  await writeSafetensors(join(folder, 'both.safetensors'), [...te, ...conv])
  await writeSafetensors(join(folder, 'te.safetensors'), te)
  await writeSafetensors(join(folder, 'conv.safetensors'), conv)
  const picture = (tag: string) => draw({ prompt: `an apple${tag}`, loraDir: folder })
  const [plain, onText, onUNet, both] = [
    await draw(),
    await picture('<lora:te>'),
    await picture('<lora:conv>'),
    await picture('<lora:both>'),
  ]
  for (const changed of [onText, onUNet]) assert.ok(difference(changed, plain) > 0.01)
  assert.deepEqual(await picture('<lora:both:1:0>'), onText)
  assert.deepEqual(await picture('<lora:both:0:1>'), onUNet)
  assert.deepEqual(await picture('<lora:te>'), onText)
  assert.ok(difference(both, onText) > 0.01 && difference(both, onUNet) > 0.01)
  assert.deepEqual(await picture('<lora:te:1><lora:conv:1>'), both)
})

test('compare puts each prompt in a row, without and with the LoRA', async (t) => {
  const folder = await temporaryFolder(t)
  const lora = join(folder, 'a.safetensors')
  await writeLora(lora, 1)
  const prompt = ['an apple', 'a house']
  const output = join(folder, 'new', 'compare.png')
  const [image] = await generate({ ...small, prompt, lora, output, compare: true })
  const { width, height, png, parameters } = image as GeneratedImage
  assert.deepEqual([width, height], [130, 130])
  assert.deepEqual(await readFile(output), Buffer.from(png))
  const cell = (left: number, top: number) => sharp(png).extract({ left, top, width: 64, height: 64 }).removeAlpha().raw().toBuffer()
  assert.deepEqual(await cell(0, 0), await draw())
  assert.deepEqual(await cell(66, 0), await draw({ lora }))
  assert.deepEqual(await cell(0, 66), await draw({ prompt: 'a house' }))
  assert.deepEqual(await cell(66, 66), await draw({ prompt: 'a house', lora }))
  assert.match(parameters, /^an apple <lora:a:1>\nSteps: .*Lora hashes: "a: [0-9a-f]{12}".*\n\na house <lora:a:1>\n/)
})

test('several prompts make several files, each told when it is written', async (t) => {
  const folder = await temporaryFolder(t)
  const events: GenerateEvent[] = []
  const onEvent = (event: GenerateEvent) => events.push(event)
  const images = await generate({ ...small, prompt: ['an apple', 'a house'], output: join(folder, 'x.png') }, { onEvent })
  assert.deepEqual((await readdir(folder)).sort(), ['x-1.png', 'x-2.png'])
  assert.deepEqual(
    images.map(({ path }) => path),
    [join(folder, 'x-1.png'), join(folder, 'x-2.png')],
  )
  assert.deepEqual(
    events.map((event) =>
      event.type === 'step' ? `${event.picture}/${event.pictures} ${event.step}/${event.steps}` : event.type === 'image' && event.path,
    ),
    ['1/2 1/3', '1/2 2/3', '1/2 3/3', join(folder, 'x-1.png'), '2/2 1/3', '2/2 2/3', '2/2 3/3', join(folder, 'x-2.png')],
  )
})

test('a prompt of more tokens than are used is told, once', async () => {
  const codes: string[] = []
  const onEvent = (event: GenerateEvent) => event.type === 'warning' && codes.push(`${event.code} ${event.message}`)
  const long = 'cat '.repeat(2401)
  await generate({ ...small, cfg: 1, prompt: [long, 'a cat', long], steps: 1 }, { onEvent })
  assert.equal(codes.length, 1)
  assert.match(
    codes[0]!,
    /^PROMPT_TOO_LONG Expected at most 32 chunks of tokens for the prompt "cat cat [^"]*… but received more; those beyond/,
  )
})

test('a tag that is no LoRA is not drawn, and told, once', async () => {
  const warnings: string[] = []
  const onEvent = (event: GenerateEvent) => event.type === 'warning' && warnings.push(`${event.code} ${event.message}`)
  const prompt = ['an apple<hypernet:x:1>', 'an apple<hypernet:x:1> ', '<y:1>']
  const [image] = await generate({ ...small, prompt }, { onEvent })
  assert.deepEqual(await pixelsOf(image!.png), await draw())
  assert.match(image!.parameters, /^an apple<hypernet:x:1>\n/)
  const told = 'Expected no tags but <lora:name:weight> in prompts but received "<hypernet:x:1>", "<y:1>"; what is no LoRA is left out'
  assert.deepEqual(warnings, [`TAG_UNKNOWN ${told}`])
})

test('words count by their weights, and those beyond the first 75 tokens count, too', async () => {
  const plain = await draw()
  for (const prompt of ['an (apple:1.5)', 'an apple BREAK a house', `an apple ${', cat'.repeat(60)}`]) {
    assert.ok(difference(await draw({ prompt }), plain) > 0.01, prompt)
  }
  // The negative prompt is of another length, then of the same.
  const long = await draw({ prompt: 'an apple BREAK a house', negativePrompt: 'red' })
  assert.ok(difference(await draw({ prompt: 'an apple BREAK a house', negativePrompt: 'red BREAK blue' }), long) > 0.01)
})

test('what a prompt may not have is refused before anything is read', async () => {
  for (const options of [{ prompt: '[a|b]' }, { prompt: 'x', negativePrompt: 'a AND b' }]) {
    await assert.rejects(generate({ ...small, ...options, model: '/no/model' }), { code: 'PROMPT_INVALID' })
  }
})

test('an aborted picture rejects with an AbortError and writes nothing', async (t) => {
  const folder = await temporaryFolder(t)
  const output = join(folder, 'x.png')
  const reason = new Error('enough')
  await assert.rejects(generate({ ...small, prompt: 'x', output }, { signal: AbortSignal.abort(reason) }), {
    name: 'AbortError',
    cause: reason,
  })
  const controller = new AbortController()
  const lora = join(await temporaryFolder(t), 'a.safetensors')
  await writeLora(lora, 1)
  await assert.rejects(generate({ ...small, prompt: 'x', lora }, { signal: AbortSignal.abort(reason) }), {
    name: 'AbortError',
    cause: reason,
  })
  let steps = 0
  const onEvent = () => {
    steps += 1
    controller.abort()
  }
  await assert.rejects(generate({ ...small, prompt: 'x', output }, { signal: controller.signal, onEvent }), { name: 'AbortError' })
  assert.equal(steps, 1)
  assert.deepEqual(await readdir(folder), [])
  const deep = { ...small, prompt: 'x', output: join(folder, 'a', 'b', 'x.png') }
  await assert.rejects(generate(deep, { signal: controller.signal }), { name: 'AbortError' })
  assert.deepEqual(await readdir(folder), [], 'no empty folder is left')
})

test('sizes, layers and steps that the model does not have are refused', async () => {
  const refuses = (options: object, message: string) =>
    assert.rejects(generate({ ...small, prompt: 'x', ...options }), { name: 'LorafuseError', code: 'OPTION_INVALID', message })
  await refuses({ width: 72 }, 'Expected a multiple of 32 for width with this model but received 72')
  await refuses({ clipSkip: 5 }, 'Expected at most 4 for clipSkip with this model but received 5')
})

test('a LoRA of layers outside the blocks is refused', async (t) => {
  const lora = join(await temporaryFolder(t), 'a.safetensors')
  const name = 'lora_unet_time_embedding_linear_1.lora_down.weight'
  await writeSafetensors(lora, [{ name, dtype: 'F32', shape: [1, 64], data: new Float32Array(64) }])
  await assert.rejects(generate({ ...small, prompt: 'x', lora }), {
    code: 'LORA_UNSUPPORTED',
    message: /before or after the blocks of the UNet .*lora_unet_time_embedding/,
  })
})

test('a LoRA of another model is refused', async (t) => {
  const folder = await temporaryFolder(t)
  const lora = join(folder, 'a.safetensors')
  await writeLora(lora, 1)
  const bytes = await readFile(lora, 'latin1')
  await writeFile(lora, bytes.replaceAll('down_blocks', 'DOWN_blocks'), 'latin1')
  await assert.rejects(generate({ ...small, prompt: 'x', lora }), { code: 'LORA_MISMATCH' })
})

test('an open pipeline draws one picture after another, and after its disposal no more', async () => {
  const pipeline = await Pipeline.open({ model: tiny, device: 'auto', precision: 'auto', threads: 1 })
  const request = { ...small, prompt: 'an apple', negativePrompt: '', sampler: 'DDIM' as const, clipSkip: 1 }
  const first = await pipeline.draw(request)
  await pipeline.draw({ ...request, seed: 5, width: 96 })
  assert.deepEqual(await pipeline.draw(request), first)
  assert.deepEqual(Buffer.from(first.data), await draw())
  for (const odd of [{ steps: 0 }, { steps: 1.5 }, { seed: -1 }, { cfg: -5 }, { sampler: '__proto__' }, { prompt: 7 }, { width: 1e9 }]) {
    const message = new RegExp(`for ${Object.keys(odd)[0]} but received`)
    await assert.rejects(pipeline.draw({ ...request, ...odd } as never), { code: 'OPTION_INVALID', message })
  }
  await assert.rejects(pipeline.apply([{ path: 'a', te: Number.NaN, unet: 1 }]), { code: 'OPTION_INVALID' })
  await pipeline[Symbol.asyncDispose]()
  await assert.rejects(pipeline.draw(request), { code: 'DISPOSED' })
})

test('a pipeline holds the LoRAs that are applied alone, and reads a file again that changed', async (t) => {
  const folder = await temporaryFolder(t)
  const [a, b] = [join(folder, 'a.safetensors'), join(folder, 'b.safetensors')].map((path) => ({ path, te: 1, unet: 1 })) as [
    AppliedLora,
    AppliedLora,
  ]
  await writeLora(a.path, 1)
  await writeLora(b.path, 2)
  await using pipeline = await Pipeline.open({ model: tiny, device: 'auto', precision: 'auto', threads: 1 })
  const held = () => (pipeline as unknown as { loras: Map<string, { file: unknown }> }).loras
  await pipeline.apply([a])
  const { file } = held().get(a.path)!
  await pipeline.apply([a, a, b])
  assert.deepEqual([...held().keys()], [a.path, b.path])
  assert.equal(held().get(a.path)!.file, file)
  const request = { ...small, prompt: 'an apple', negativePrompt: '', sampler: 'DDIM' as const, clipSkip: 1 }
  await pipeline.apply([b])
  assert.deepEqual([...held().keys()], [b.path])
  const drawn = await pipeline.draw(request)
  // As large as before.
  await writeLora(b.path, 1)
  await pipeline.apply([b])
  assert.deepEqual(Buffer.from((await pipeline.draw(request)).data), await draw({ lora: a.path }))
  assert.notDeepEqual(await pipeline.draw(request), drawn)
  await pipeline.apply([])
  assert.equal(held().size, 0)
})

test('a LoRA that was changed after it was written is told, once, and drawn', async (t) => {
  const folder = await temporaryFolder(t)
  const lora = join(folder, 'a.safetensors')
  await writeLora(lora, 1)
  const { metadata, dataStart } = await readHeader(lora)
  const tensors = [...(await readTensors(lora))].map(([name, tensor]) => ({ name, ...tensor, dtype: 'F32' as const }))
  const hash = await hashFiles([lora], { start: dataStart })
  const warningsOf = async (stored: string) => {
    await writeSafetensors(lora, tensors, { ...metadata, sshs_model_hash: stored })
    const warnings: string[] = []
    const onEvent = (event: GenerateEvent) => event.type === 'warning' && warnings.push(`${event.code} ${event.message}`)
    const [image] = await generate({ ...small, prompt: ['an apple', 'a house'], lora, steps: 1 }, { onEvent })
    assert.match(image!.parameters, new RegExp(`a: ${hash.slice(0, 12)}`))
    return warnings
  }
  assert.deepEqual(await warningsOf(hash.toUpperCase()), [])
  const [warning = '', ...more] = await warningsOf('0'.repeat(64))
  assert.match(warning, new RegExp(`^HASH_MISMATCH Expected the hash "0{64}" that ${lora} holds but its tensors have ${hash}`))
  assert.deepEqual(more, [])
})

test("PEFT's file without its config is drawn, and told", async (t) => {
  const lora = join(await temporaryFolder(t), 'adapter_model.safetensors')
  const path = 'base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q'
  await writeSafetensors(lora, [
    { name: `${path}.lora_A.weight`, dtype: 'F32', shape: [1, 192], data: new Float32Array(192) },
    { name: `${path}.lora_B.weight`, dtype: 'F32', shape: [192, 1], data: new Float32Array(192) },
  ])
  const codes: string[] = []
  const onEvent = (event: GenerateEvent) => event.type === 'warning' && codes.push(event.code)
  await generate({ ...small, prompt: ['x', 'y'], lora, steps: 1 }, { onEvent })
  assert.deepEqual(codes, ['LORA_SCALE_UNKNOWN'])
})

test('a picture of no numbers is an error, not blank', async (t) => {
  const model = await alteredModel(await temporaryFolder(t), Uint8Array.of(0, 0x7e))
  await assert.rejects(generate({ ...small, model, prompt: 'x' }), { code: 'NAN_PICTURE', message: /from the UNet but received NaN/ })
  const lora = join(await temporaryFolder(t), 'a.safetensors')
  await writeLora(lora, 1, 3e38)
  await assert.rejects(generate({ ...small, prompt: 'x', lora }), { code: 'LORA_INVALID', message: /use smaller weights/ })
})

test('a LoRA that is not there is looked for with the extension once', async (t) => {
  const lora = join(await temporaryFolder(t), 'none.safetensors')
  const message = `Expected a LoRA file for ${JSON.stringify(lora)} but received none of ${lora}`
  await assert.rejects(generate({ ...small, prompt: 'x', lora }), { code: 'LORA_NOT_FOUND', message })
})

test('a LoRA that is a pipe, or lies behind a circle of links, does not hang', async (t) => {
  const folder = await temporaryFolder(t)
  const lora = join(folder, 'a.safetensors')
  await promisify(execFile)('mkfifo', [lora])
  await assert.rejects(generate({ ...small, prompt: 'x', lora }), {
    code: 'FILE_UNREADABLE',
    message: /Expected a LoRA at .* received a pipe/,
  })
  await symlink(join(folder, 'b'), join(folder, 'b'))
  await assert.rejects(generate({ ...small, prompt: 'x', lora: join(folder, 'b') }), { code: 'FILE_UNREADABLE', message: /links/ })
  const message = /Expected a LoRA file for ".*" but received the folder .*; name the file in it$/
  await assert.rejects(generate({ ...small, prompt: 'x', lora: folder }), { code: 'LORA_NOT_FOUND', message })
  for (const name of ['none', 'n'.repeat(100_000)]) {
    const error = await generate({ ...small, prompt: `<lora:${name}:1>`, loraDir: folder }).catch((cause: unknown) => cause)
    assert.ok(error instanceof LorafuseError && error.code === 'LORA_NOT_FOUND' && error.message.length < 700, String(error).slice(0, 500))
  }
})

test('a listener that throws or rejects stops the picture with what it says', async () => {
  const failure = new Error('no more')
  const listeners = [
    () => {
      throw failure
    },
    async () => Promise.reject(failure),
    async (event: GenerateEvent) => event.type === 'image' && Promise.reject(failure),
  ]
  for (const onEvent of listeners) await assert.rejects(generate({ ...small, prompt: 'x' }, { onEvent }), failure)
})

test('a listener that never ends holds neither the memory nor the caller who stops', async () => {
  const controller = new AbortController()
  const reason = new Error('enough')
  const onEvent = (event: GenerateEvent) => {
    if (event.type !== 'image') return
    setTimeout(() => controller.abort(reason), 20)
    return new Promise<void>(() => {})
  }
  const { signal } = controller
  await assert.rejects(generate({ ...small, prompt: 'x' }, { onEvent, signal }), { name: 'AbortError', cause: reason })
})

test('where there is no memory for an array, that is said', async () => {
  const fail = () => {
    throw new RangeError('Array buffer allocation failed')
  }
  const expected = { code: 'OUT_OF_MEMORY', message: /^Expected memory for an array but received none/ }
  await assert.rejects(generate({ ...small, prompt: 'x' }, { onEvent: fail }), expected)
  await using pipeline = await Pipeline.open({ model: tiny, device: 'auto', precision: 'auto', threads: 1 })
  const inner = pipeline as unknown as { session: Pick<Session, 'run' | 'layers' | 'dispose'> }
  inner.session.dispose()
  inner.session = { run: fail, layers: fail, dispose: () => {} }
  const request = {
    prompt: 'x',
    negativePrompt: '',
    sampler: 'DDIM' as const,
    steps: 1,
    cfg: 1,
    seed: 1,
    clipSkip: 1,
    width: 64,
    height: 64,
  }
  await assert.rejects(pipeline.draw(request), expected)
  await assert.rejects(pipeline.apply([]), expected)
})
