/** `generate`: prompts and LoRAs in, PNG out, with the settings in its text. */
import { rmdir } from 'node:fs/promises'
import { basename, dirname, extname, join, resolve } from 'node:path'
import type { Warn } from '../adapters/adapter.js'
import { cut, LorafuseError, listed, rejecting, shown } from '../errors.js'
import { Listener, type ModelEvent, type WarningEvent } from '../events.js'
import { makeFolder, writeAtomically, writeError } from '../files/atomic.js'
import { hashFiles } from '../files/hashes.js'
import { isFolder } from '../files/read.js'
import { readHeader } from '../files/safetensors.js'
import { type GenerateOptions, type ResolvedGenerateOptions, resolveGenerateOptions } from '../options/resolve.js'
import { parseEmphasis } from './emphasis.js'
import { type LoraWeights, Pipeline } from './pipeline.js'
import { encodePng, type Picture, tile } from './png.js'
import { infotext, loraTag, parsePrompt } from './prompt.js'

export type GenerateEvent =
  /** One step of one picture, both counted from 1; `compare` draws two pictures per prompt. */
  | { type: 'step'; picture: number; pictures: number; step: number; steps: number }
  /** A picture is done; `path` is undefined if no file was asked for. */
  | { type: 'image'; path: string | undefined; width: number; height: number; parameters: string }
  | ModelEvent

export interface GeneratedImage {
  png: Uint8Array
  width: number
  height: number
  /** The file, if one was asked for. */
  path: string | undefined
  /** The text in the PNG. */
  parameters: string
}

export interface GenerateContext {
  signal?: AbortSignal | undefined
  onEvent?: ((event: GenerateEvent) => void) | undefined
}

/** A LoRA to apply, as its tag names it. */
interface AppliedLora extends LoraWeights {
  name: string
  path: string
}

interface Prompt {
  /** With the tags of all its LoRAs. */
  whole: string
  text: string
  loras: AppliedLora[]
  /** Tags of other kinds. */
  unused: string[]
}

const LONGEST_LIST = 500

/** Looks for a LoRA in folders, by its name and, unless that has the extension, with the extension. Throws `LORA_NOT_FOUND`, and as `openFile` where the system does not say. */
async function findLora(name: string, folders: string[]): Promise<string> {
  const names = name.endsWith('.safetensors') ? [name] : [name, `${name}.safetensors`]
  const places = new Set(folders.flatMap((folder) => names.map((name) => resolve(folder, name))))
  let received = `none of ${cut(listed([...places]), LONGEST_LIST)}`
  for (const place of places) {
    const found = await isFolder(place, 'a LoRA')
    if (found === false) return place
    if (found) received = `the folder ${place}; name the file in it`
  }
  throw new LorafuseError('LORA_NOT_FOUND', `Expected a LoRA file for ${shown(name)} but received ${received}`)
}

const stem = (path: string) => basename(path, extname(path))

/** Splits prompts into text and LoRAs: first those of the option, then the prompt's own. */
async function readPrompts({ prompt, negativePrompt, lora, loraDir, output }: ResolvedGenerateOptions): Promise<Prompt[]> {
  const shared: AppliedLora[] = []
  for (const { path, weight } of lora) {
    const found = await findLora(path, ['.'])
    shared.push({ name: stem(found), path: found, te: weight, unet: weight })
  }
  const tags = shared.map((one) => ` ${loraTag(one.name, one)}`).join('')
  parseEmphasis(negativePrompt)
  const folders = loraDir === undefined ? [...(output === undefined ? [] : [dirname(output)]), '.', 'output'] : [loraDir]
  const prompts: Prompt[] = []
  for (const words of prompt) {
    const { text, loras, unused } = parsePrompt(words)
    parseEmphasis(text)
    const own: AppliedLora[] = []
    for (const one of loras) own.push({ ...one, path: await findLora(one.name, folders) })
    prompts.push({ whole: `${words.trim()}${tags}`, text, loras: [...shared, ...own], unused })
  }
  return prompts
}

/** Numbers a path if there are several pictures: `picture.png` → `picture-2.png`. */
function numbered(path: string, i: number, count: number): string {
  return count === 1 ? path : join(dirname(path), `${stem(path)}-${i + 1}${extname(path)}`)
}

/** One call of `generate`. */
class Drawing {
  private picture = 0
  /** The sha256 of each LoRA's bytes after the header, by path. */
  private readonly hashes = new Map<string, string>()
  /** The warnings that were given. */
  private readonly told = new Set<string>()

  constructor(
    private readonly options: ResolvedGenerateOptions,
    private readonly prompts: Prompt[],
    private readonly pipeline: Pipeline,
    private readonly listener: Listener<GenerateEvent>,
    private readonly signal: AbortSignal | undefined,
    private readonly size: { width: number; height: number },
  ) {}

  /** Tells a thing once. */
  private warn(warning: Omit<WarningEvent, 'type'>): void {
    if (this.told.has(warning.message)) return
    this.told.add(warning.message)
    this.listener.emit({ type: 'warning', ...warning })
  }

  /** Says what is not used: threads, tags. */
  private warnOfUnused(): void {
    const { prompts, pipeline } = this
    for (const warning of pipeline.warnings) this.warn(warning)
    const tags = [...new Set(prompts.flatMap(({ unused }) => unused))].map((tag) => shown(tag))
    const message = `Expected no tags but <lora:name:weight> in prompts but received ${listed(tags)}; what is no LoRA is left out`
    if (tags.length > 0) this.warn({ code: 'TAG_UNKNOWN', message })
  }

  /** Hashes the LoRAs, and compares with the hashes that kohya, or we, wrote into them. */
  private async hashLoras(): Promise<void> {
    const { signal } = this
    for (const path of new Set(this.prompts.flatMap(({ loras }) => loras.map((lora) => lora.path)))) {
      const { metadata, dataStart } = await readHeader(path, 'a LoRA')
      const hash = await hashFiles([path], { start: dataStart, signal })
      this.hashes.set(path, hash)
      const { sshs_model_hash: stored = hash } = metadata
      const message = `Expected the hash ${shown(stored)} that ${path} holds but its tensors have ${hash}; it was changed or damaged`
      if (stored.toLowerCase() !== hash) this.warn({ code: 'HASH_MISMATCH', message, path })
    }
  }

  /** Draws one picture per prompt, in order. */
  private async *draw(withLoras: boolean): AsyncGenerator<Picture> {
    const { options, prompts, pipeline, signal, size } = this
    const pictures = prompts.length * (options.compare ? 2 : 1)
    let applied: string | undefined
    for (const { text, loras } of prompts) {
      const wanted = withLoras ? loras : []
      // Other LoRAs mean another graph, so they are applied only when they change.
      const warn: Warn = (warning) => this.warn(warning)
      if (applied !== JSON.stringify(wanted)) await pipeline.apply(wanted, warn)
      applied = JSON.stringify(wanted)
      this.picture += 1
      const { picture } = this
      const onStep = (step: number) => this.listener.emit({ type: 'step', picture, pictures, step, steps: options.steps })
      yield await pipeline.draw({ ...options, ...size, prompt: text }, { signal, onStep, warn })
    }
  }

  private async parameters({ whole, loras }: Prompt): Promise<string> {
    const { options, pipeline, size } = this
    const { model } = pipeline
    const hashed = loras.map(({ path, name }) => ({ name, hash: this.hashes.get(path) as string }))
    const modelHash = await model.legacyHash()
    return infotext({ ...options, ...size, prompt: whole, loras: hashed, model: model.name, modelHash })
  }

  private async finish(picture: Picture, prompts: Prompt[], path: string | undefined): Promise<GeneratedImage> {
    const texts: string[] = []
    for (const prompt of prompts) texts.push(await this.parameters(prompt))
    const parameters = texts.join('\n\n')
    const { width, height } = picture
    const png = await encodePng(picture, parameters)
    if (path !== undefined) await writeAtomically(path, png)
    this.listener.emit({ type: 'image', path, width, height, parameters })
    return { png, width, height, path, parameters }
  }

  /** Makes the folder of the files first, as drawing for minutes in vain would be worse; it goes again if nothing gets into it. */
  async run(): Promise<GeneratedImage[]> {
    const { output } = this.options
    if (output === undefined) return this.drawAll()
    const folder = dirname(output)
    const made = await makeFolder(folder).catch((cause: unknown) => {
      throw writeError(folder, cause, 'to be able to make the folder')
    })
    try {
      return await this.drawAll()
    } catch (error) {
      for (const path of made.reverse()) await rmdir(path).catch(() => undefined)
      throw error
    }
  }

  private async drawAll(): Promise<GeneratedImage[]> {
    const { output, compare } = this.options
    this.warnOfUnused()
    await this.hashLoras()
    const { prompts, size } = this
    if (compare) {
      const rows: Picture[][] = []
      for await (const picture of this.draw(false)) rows.push([picture])
      let row = 0
      for await (const picture of this.draw(true)) rows[row++]?.push(picture)
      const gap = Math.max(2, Math.round(size.width / 64))
      return [await this.finish(tile(rows, size.width, size.height, gap), prompts, output)]
    }
    const images: GeneratedImage[] = []
    for await (const picture of this.draw(true)) {
      const path = output && numbered(output, images.length, prompts.length)
      images.push(await this.finish(picture, [prompts[images.length] as Prompt], path))
    }
    return images
  }
}

/**
 * Draws a picture per prompt; with `compare`, one picture of all, without the LoRAs on the left and with them on the right. Writes files if
 * `output` is given. Throws `OPTION_REQUIRED`, `OPTION_INVALID`, `OPTION_UNKNOWN`, `PROMPT_INVALID`, `LORA_NOT_FOUND`,
 * what reading the model and the LoRAs throws, `OUTPUT_NOT_WRITABLE`, `DISK_FULL`, `NAN_PICTURE`, `OUT_OF_MEMORY`, an error named `AbortError`, and what
 * `onEvent` throws or rejects with.
 */
export async function generate(input: GenerateOptions, context: GenerateContext = {}): Promise<GeneratedImage[]> {
  return runGeneration(resolveGenerateOptions(input), context)
}

async function drawing(options: ResolvedGenerateOptions, { signal, onEvent }: GenerateContext): Promise<GeneratedImage[]> {
  const prompts = await readPrompts(options)
  if (options.compare && prompts.every(({ loras }) => loras.length === 0)) {
    throw new LorafuseError('OPTION_INVALID', 'Expected a LoRA to compare with but received none')
  }
  const listener = new Listener(onEvent)
  const pipeline = await Pipeline.open(options, { signal, onEvent: (event) => listener.emit(event) })
  let images: GeneratedImage[]
  try {
    const size = await pipeline.size(options.width, options.height)
    images = await new Drawing(options, prompts, pipeline, listener, signal, size).run()
  } finally {
    await pipeline[Symbol.asyncDispose]()
  }
  // Its memory is given back by now: the listener may take its time.
  await listener.settled(signal)
  return images
}

/** Draws with options that have been checked. */
export async function runGeneration(options: ResolvedGenerateOptions, context: GenerateContext): Promise<GeneratedImage[]> {
  return rejecting(drawing(options, context), context.signal, 'The image')
}
