/** Draws with a model: text → embeddings → a sampler over the UNet → VAE → pixels. */
import { isDeepStrictEqual } from 'node:util'
import { attachStack, type Warn } from '../adapters/adapter.js'
import { type AdapterFile, readAdapters } from '../adapters/files.js'
import { type LoraPart, lora } from '../adapters/lora.js'
import { computation, threadWarnings } from '../device.js'
import { LorafuseError, rejecting, throwIfAborted } from '../errors.js'
import type { WarningEvent } from '../events.js'
import { allFinite } from '../files/floats.js'
import { type Stamp, stampOf } from '../files/stamp.js'
import type { HubContext } from '../models/hub.js'
import { loraPrefixes, type Model, openSession, predictsV, type ReadOptions } from '../models/model.js'
import { readModel } from '../models/read.js'
import { type EncodedText, join, textInputs, timeIds } from '../models/text.js'
import type { Inputs, Session, Tensor } from '../native.js'
import { invalidOption, type ResolvedGenerateOptions } from '../options/resolve.js'
import { generateTable } from '../options/table.js'
import { normal } from '../random.js'
import { encodePrompt } from './context.js'
import { type Picture, toPicture } from './png.js'
import { guide, trajectory } from './sampler.js'

export type PipelineOptions = Pick<ResolvedGenerateOptions, 'model' | 'device' | 'precision' | 'threads'> & ReadOptions

/** At `cfg` 1, the scale of classifier-free guidance, the negative prompt is not used. */
export interface DrawRequest extends Pick<ResolvedGenerateOptions, 'negativePrompt' | 'sampler' | 'steps' | 'cfg' | 'seed' | 'clipSkip'> {
  prompt: string
  /** In pixels; multiples of the model's `multiple`. */
  width: number
  height: number
}

/** The weights of a LoRA: its part on text encoders, and that on the UNet. */
export interface LoraWeights {
  te: number
  unet: number
}

export interface DrawContext {
  signal?: AbortSignal | undefined
  /** Called after each step, counted from 1. */
  onStep?: ((step: number) => void) | undefined
  /** Is told of parts of the prompts that are not used. */
  warn?: Warn | undefined
}

/** A file that was read, and how it stood on the disk before. */
interface ReadLora {
  stamp: Stamp
  file: AdapterFile<LoraPart>
}

/** Throws `NAN_PICTURE` for what would be a blank picture. */
function checkFinite(data: Float32Array, what: string): void {
  if (allFinite(data)) return
  const advice = 'use smaller weights for LoRAs, or --precision bf16 or f32; else the model is damaged'
  throw new LorafuseError('NAN_PICTURE', `Expected finite numbers from ${what} but received NaN or infinity; ${advice}`)
}

/** The options of `generate` that are those of one image. */
const DRAWN = ['negativePrompt', 'sampler', 'steps', 'cfg', 'seed', 'clipSkip', 'width', 'height'] as const

/** Throws `OPTION_INVALID`. */
function checkReference({ path, te, unet }: { path: string } & LoraWeights): void {
  if (typeof path !== 'string') throw invalidOption('the path of a file', 'path of a LoRA', path)
  for (const weight of [te, unet]) if (!Number.isFinite(weight)) throw invalidOption('a finite number', 'a weight of a LoRA', weight)
}

/** An open model, which holds its memory until disposal. */
export class Pipeline implements AsyncDisposable {
  /** Those that are applied, by path. */
  private loras = new Map<string, ReadLora>()

  private constructor(
    readonly model: Model,
    private readonly session: Session,
    /** What is to be told about how it computes. */
    readonly warnings: WarningEvent[],
  ) {}

  /** `context`: for a model that is fetched. Throws as `readModel` and `openSession`. */
  static async open({ model: path, ...options }: PipelineOptions, context: HubContext = {}): Promise<Pipeline> {
    const model = await readModel(path, options, context)
    const session = openSession(model, computation(options))
    return new Pipeline(model, session, threadWarnings(options.threads, session))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.session.dispose()
  }

  /** Completes a size with the model's own. Throws `OPTION_INVALID`. */
  async size(width?: number, height?: number): Promise<{ width: number; height: number }> {
    const { sampleSize } = this.model
    const size = { width: width ?? sampleSize.width, height: height ?? sampleSize.height }
    this.checkSize(size)
    return size
  }

  private checkSize(size: { width: number; height: number }): void {
    const { multiple } = this.model
    for (const name of ['width', 'height'] as const) {
      const valid = size[name] > 0 && size[name] % multiple === 0
      if (!valid) throw invalidOption(`a multiple of ${multiple}`, `${name} with this model`, size[name])
    }
  }

  /**
   * Applies these LoRAs to all later images, instead of earlier ones, which are given back; a file that changed since is read again. `warn`: as
   * in `readAdapters`; throws as that and `attachStack`, and `OPTION_INVALID`.
   */
  async apply(references: ({ path: string } & LoraWeights)[], warn?: Warn): Promise<void> {
    return rejecting(this.stack(references, warn))
  }

  private async stack(references: ({ path: string } & LoraWeights)[], warn: Warn | undefined): Promise<void> {
    const { family } = this.model
    const networks = family.text.map(({ network }) => network).concat(family.trained)
    const target = {
      layers: Object.fromEntries(networks.map((network) => [network, this.session.layers(network).filter(lora.carries)])),
      prefixes: loraPrefixes(family, this.model.networks),
      baseModelVersion: family.metadata(predictsV(this.model)).baseModelVersion,
    }
    const stack = []
    const read = new Map<string, ReadLora>()
    references.forEach(checkReference)
    for (const { path, te, unet } of references) {
      const stamp = await stampOf(path)
      const known = read.get(path) ?? this.loras.get(path)
      const file = known && isDeepStrictEqual(known.stamp, stamp) ? known.file : await readAdapters(lora, path, target, warn)
      if (stamp) read.set(path, { stamp, file })
      stack.push({ file, weight: (network: string) => (network === family.trained ? unet : te) })
    }
    this.loras = read
    await attachStack(this.session, lora, stack)
  }

  private check(request: DrawRequest): void {
    if (typeof request.prompt !== 'string') throw invalidOption('a text', 'prompt', request.prompt)
    for (const name of DRAWN) {
      const { kind } = generateTable[name]
      if (kind.accept(request[name]) === undefined) throw invalidOption(kind.expected, name, request[name])
    }
    const { clipSkip, steps } = request
    this.checkSize(request)
    const { mostClipSkip, scheduler } = this.model
    const { numTrainTimesteps } = scheduler
    if (clipSkip > mostClipSkip) throw invalidOption(`at most ${mostClipSkip}`, 'clipSkip with this model', clipSkip)
    if (steps > numTrainTimesteps) throw invalidOption(`at most ${numTrainTimesteps}`, 'steps with this model', steps)
  }

  /**
   * Draws an image. The initial noise `[h, w, C]` depends only on the seed. Throws `OPTION_INVALID`, `NAN_PICTURE`,
   * `OUT_OF_MEMORY`, an `AbortError`.
   */
  async draw(request: DrawRequest, context: DrawContext = {}): Promise<Picture> {
    return rejecting(this.picture(request, context))
  }

  /** Encodes a prompt. An empty negative one is zeros for SDXL, as in A1111. */
  private async encode(prompt: string, clipSkip: number, isNegative: boolean, warn: Warn | undefined): Promise<EncodedText> {
    const { context, pooled } = await encodePrompt(this.session, this.model, prompt, clipSkip, warn)
    if (pooled === undefined) return { context }
    return isNegative && prompt === '' ? { context: context.fill(0), pooled: pooled.fill(0) } : { context, pooled }
  }

  /**
   * Makes what the UNet takes beside latents and timesteps, one call after the other: texts of one length go into one call, as in A1111. SDXL's
   * sizes are those of pictures that are whole images.
   */
  private conditions(texts: EncodedText[], width: number, height: number): { count: number; inputs: Inputs }[] {
    const alike = texts.every(({ context }) => context.length === texts[0]!.context.length)
    const sizes = timeIds({ original: { width, height }, crop: { left: 0, top: 0 }, target: { width, height } })
    return (alike ? [texts] : texts.map((text) => [text])).map((group) => {
      const count = group.length
      const ids = { shape: [count, sizes.length], data: join(group.map(() => sizes)) }
      return { count, inputs: { ...textInputs(this.model, group), ...(this.model.timeIds && { time_ids: ids }) } }
    })
  }

  /** Returns the UNet's predictions for each text `[n, …]`; it gets the latents `[1, h, w, C]` times `scale`. */
  private async predict(latents: Tensor<Float32Array>, scale: number, timestep: number, conditions: { count: number; inputs: Inputs }[]) {
    const scaled = scale === 1 ? latents.data : latents.data.map((value) => value * scale)
    const predictions: Float32Array[] = []
    for (const { count, inputs } of conditions) {
      const repeated = { shape: [count, ...latents.shape.slice(1)], data: join(new Array<Float32Array>(count).fill(scaled)) }
      const timesteps = { shape: [count], data: new Float32Array(count).fill(timestep) }
      const run = this.session.run(this.model.family.trained, 'predict', { latents: repeated, timesteps, ...inputs })
      predictions.push((await run)[0]!.data)
    }
    const all = join(predictions)
    checkFinite(all, 'the UNet')
    return all
  }

  private async picture(request: DrawRequest, { signal, onStep, warn }: DrawContext): Promise<Picture> {
    throwIfAborted(signal, 'The image')
    this.check(request)
    const { prompt, negativePrompt, sampler, cfg, seed, width, height, clipSkip } = request
    const { family, scheduler, scalingFactor, shiftFactor, factor, latentChannels } = this.model
    const guided = cfg !== 1
    const texts: EncodedText[] = []
    if (guided) texts.push(await this.encode(negativePrompt, clipSkip, true, warn))
    texts.push(await this.encode(prompt, clipSkip, false, warn))
    const conditions = this.conditions(texts, width, height)
    const shape = [1, height / factor, width / factor, latentChannels]
    const size = shape.reduce((product, length) => product * length)
    const { scale: initial, steps } = trajectory(sampler, scheduler, request.steps)
    const latents = normal({ seed, stream: 'latents' }, size).map((value) => value * initial)
    for (const [i, { timestep, scale, advance }] of steps.entries()) {
      throwIfAborted(signal, 'The image')
      const prediction = await this.predict({ shape, data: latents }, scale, timestep, conditions)
      const noise = () => normal({ seed, stream: 'ancestral', step: i }, size)
      advance(latents, guided ? guide(prediction, cfg) : prediction, noise)
      onStep?.(i + 1)
    }
    throwIfAborted(signal, 'The image')
    const unscaled = { shape, data: latents.map((value) => value / scalingFactor + shiftFactor) }
    const [pixels] = await this.session.run(family.vae, 'decode', { latents: unscaled })
    checkFinite(pixels!.data, 'the VAE')
    return toPicture(pixels!.data, width, height)
  }
}
