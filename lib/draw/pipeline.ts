/** A model that draws: text → embeddings → DDIM over the UNet → VAE → pixels. */

import { type Lora, readLora, stackLoras } from '../adapters/lora.js'
import { computation } from '../device.js'
import { LorafuseError, throwIfAborted } from '../errors.js'
import { type Checkpoint, openSession, readCheckpoint } from '../models/diffusers.js'
import { loadTokenizer, type Tokenizer } from '../models/tokenizer.js'
import type { Session } from '../native.js'
import { normal } from '../random.js'
import { type Picture, toPicture } from './png.js'
import { ddimStep, ddimSteps, guide } from './sampler.js'

export interface PipelineOptions {
  model: string
  device: 'auto' | 'cuda' | 'cpu'
  precision: 'auto' | 'f32' | 'fp16' | 'bf16'
  threads: number
}

export interface DrawRequest {
  prompt: string
  negativePrompt: string
  steps: number
  /** Classifier-free guidance scale; at 1 the negative prompt has no part. */
  cfg: number
  seed: number
  /** In pixels, as `size` allows. */
  width: number
  height: number
  clipSkip: number
}

export interface DrawContext {
  signal?: AbortSignal | undefined
  /** Called after each step, counted from 1. */
  onStep?: ((step: number) => void) | undefined
}

/** Holds a model until it is disposed of. */
export class Pipeline implements AsyncDisposable {
  private readonly loras = new Map<string, Lora>()

  private constructor(
    readonly checkpoint: Checkpoint,
    private readonly session: Session,
    private readonly tokenizer: Tokenizer,
  ) {}

  /** Throws as `readCheckpoint`, `loadTokenizer` and `native`. */
  static async open({ model, ...options }: PipelineOptions): Promise<Pipeline> {
    const checkpoint = await readCheckpoint(model)
    const tokenizer = await loadTokenizer(checkpoint.tokenizerFolder)
    const session = openSession(checkpoint, computation(options))
    return new Pipeline(checkpoint, session, tokenizer)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.session.dispose()
  }

  /** The size to draw at: what is given, else the model's own. Throws `OPTION_INVALID`. */
  async size(width?: number, height?: number): Promise<{ width: number; height: number }> {
    const { sampleSize } = this.checkpoint
    const size = { width: width ?? sampleSize.width, height: height ?? sampleSize.height }
    this.checkSize(size)
    return size
  }

  private checkSize(size: { width: number; height: number }): void {
    const { multiple } = this.checkpoint
    for (const name of ['width', 'height'] as const) {
      if (size[name] > 0 && size[name] % multiple === 0) continue
      throw new LorafuseError('OPTION_INVALID', `Expected a multiple of ${multiple} for ${name} with this model but received ${size[name]}`)
    }
  }

  /** Draws with these LoRAs from now on. Throws as `readLora`. */
  async apply(references: { path: string; weight: number }[]): Promise<void> {
    const modules = this.session.modules()
    const loras: { lora: Lora; weight: number }[] = []
    for (const { path, weight } of references) {
      const lora = this.loras.get(path) ?? (await readLora(path, modules))
      this.loras.set(path, lora)
      loras.push({ lora, weight })
    }
    const { specs, weights } = stackLoras(loras, modules)
    this.session.attach(specs)
    if (weights.length > 0) this.session.writeAdapters('weights', weights)
  }

  private check(request: DrawRequest): void {
    const { clipSkip, steps } = request
    this.checkSize(request)
    const { textEncoder, scheduler } = this.checkpoint
    const most: [string, number, number][] = [
      ['clipSkip', clipSkip, textEncoder.config.numHiddenLayers],
      ['steps', steps, scheduler.numTrainTimesteps],
    ]
    for (const [name, value, limit] of most) {
      if (value <= limit) continue
      throw new LorafuseError('OPTION_INVALID', `Expected at most ${limit} for ${name} with this model but received ${value}`)
    }
  }

  /** Embeddings of texts, one after the other: `[n, tokens, hiddenSize]`. */
  private async embed(texts: string[], clipSkip: number): Promise<Float32Array> {
    const { length } = this.tokenizer
    const ids = new Int32Array(texts.length * length)
    texts.forEach((text, i) => {
      ids.set(this.tokenizer.encode(text), i * length)
    })
    return this.session.encodeText(ids, texts.length, clipSkip - 1)
  }

  /** Draws a picture. The starting noise is `[h, w, 4]` and depends on the seed alone. Throws `OPTION_INVALID`, an `AbortError`. */
  async draw(request: DrawRequest, { signal, onStep }: DrawContext = {}): Promise<Picture> {
    throwIfAborted(signal, 'The picture')
    this.check(request)
    const { prompt, negativePrompt, steps, cfg, seed, width, height, clipSkip } = request
    const { scheduler, scalingFactor, factor, vae } = this.checkpoint
    const guided = cfg !== 1
    const count = guided ? 2 : 1
    const context = await this.embed(guided ? [negativePrompt, prompt] : [prompt], clipSkip)
    const [h, w, channels] = [height / factor, width / factor, vae.config.latentChannels]
    const latents = normal({ seed, stream: 'latents' }, h * w * channels)
    const input = new Float32Array(count * latents.length)
    for (const [i, step] of ddimSteps(scheduler, steps).entries()) {
      throwIfAborted(signal, 'The picture')
      for (let n = 0; n < count; n++) input.set(latents, n * latents.length)
      const noise = await this.session.predict(input, [count, h, w], new Float32Array(count).fill(step.timestep), context)
      ddimStep(latents, guided ? guide(noise, cfg) : noise, step, scheduler.clipSample)
      onStep?.(i + 1)
    }
    throwIfAborted(signal, 'The picture')
    const unscaled = latents.map((value) => value / scalingFactor)
    return toPicture(await this.session.decodeLatents(unscaled, [1, h, w]), width, height)
  }
}
