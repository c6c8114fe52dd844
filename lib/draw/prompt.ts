/** Reads and writes prompts as A1111 does: `<lora:name:weight>` in the text, and the `parameters` of a picture. */
import { LorafuseError, shown } from '../errors.js'
import { samplers } from '../options/samplers.js'
import { version } from '../version.js'
import type { DrawRequest, LoraWeights } from './pipeline.js'

/** A LoRA that a prompt asks for by name. */
export interface PromptLora extends LoraWeights {
  name: string
}

/** What follows the name of a LoRA. */
const PLACES = ['te', 'unet', 'dyn']
/** How A1111 finds tags of any kind, which go on to the next `>`; for Python, letters of all scripts make words. */
const TAG = /<([\p{L}\p{N}_]+):(.*)$/su
const LORA = /^(?:lora|lyco)$/
const HALF_TAG = /<(?:lora|lyco):.*/s

const NO_END = ', which has no end'

function invalid(received: string, problem = ''): LorafuseError {
  return new LorafuseError('PROMPT_INVALID', `Expected <lora:name:weight> in the prompt but received ${shown(received)}${problem}`)
}

function weightOf(tag: string, text: string): number {
  const weight = text === '' ? Number.NaN : Number(text)
  if (!Number.isFinite(weight)) throw invalid(tag)
  return weight
}

/** Reads what stands between the brackets of a tag: weights in their order, or by name, which counts more. */
function parseTag(tag: string, body: string): PromptLora {
  const [name, ...parts] = body.split(':').map((part) => part.trim())
  const [named, placed]: [Record<string, string>, string[]] = [{}, []]
  for (const part of parts) {
    const [, key, value] = /^(\w+)=(.*)$/s.exec(part) ?? []
    if (key === undefined) placed.push(part)
    else named[key] = value as string
  }
  const odd = placed.length > PLACES.length || Object.keys(named).some((key) => !PLACES.includes(key))
  if (!name || name.includes('\0') || odd) throw invalid(tag)
  const [te, unet, dyn] = PLACES.map((key, place) => named[key] ?? placed[place])
  if (dyn !== undefined) throw invalid(tag, ', and a rank to cut it to (dyn) is not supported')
  const both = te === undefined ? 1 : weightOf(tag, te)
  return { name, te: both, unet: unet === undefined ? both : weightOf(tag, unet) }
}

/** A prompt without its tags. */
export interface ParsedPrompt {
  text: string
  loras: PromptLora[]
  /** Tags of other kinds, as `<hypernet:name:1>`, which nothing is made of. */
  unused: string[]
}

/**
 * Takes tags out of a prompt. As in A1111 `<lora:name:te:unet>` has a weight for text encoders and one for the UNet, which is
 * the first where it is left out, and tags of other kinds are no words either (AUTOMATIC1111/stable-diffusion-webui:modules/extra_networks.py,
 * extensions-builtin/Lora/extra_networks_lora.py). Throws `PROMPT_INVALID`, also for a LoRA's tag without end.
 */
export function parsePrompt(prompt: string): ParsedPrompt {
  const loras: PromptLora[] = []
  const unused: string[] = []
  // One search for each >, as one for each < would take for ever where there are many.
  const parts = prompt.split('>').map((part, i, all) => {
    if (i === all.length - 1) return part
    const found = TAG.exec(part)
    const [begun, kind = '', body = ''] = found ?? []
    const tag = `${begun}>`
    if (LORA.test(kind)) {
      if (body.includes('<')) throw invalid(tag, NO_END)
      loras.push(parseTag(tag, body))
    } else if (body === '') return `${part}>`
    else unused.push(tag)
    return part.slice(0, found!.index)
  })
  const text = parts.join('')
  const [half] = HALF_TAG.exec(text) ?? []
  if (half !== undefined) throw invalid(half, NO_END)
  return { text, loras, unused }
}

/** Writes the tag of a LoRA, so that others apply it, too. */
export function loraTag(name: string, { te, unet }: LoraWeights): string {
  return te === unet ? `<lora:${name}:${unet}>` : `<lora:${name}:${te}:${unet}>`
}

/** The prompt is with tags. */
export interface PictureInfo extends DrawRequest {
  /** As the tags name them. `hash`: sha256 of the file's bytes after the header, as kohya's `sshs_model_hash`. */
  loras: { name: string; hash: string }[]
  model: string
  /** A1111's old hash of the UNet's weights, 8 hex digits. */
  modelHash: string
}

/** Writes A1111's infotext, which its PNG info tab reads (AUTOMATIC1111/stable-diffusion-webui:modules/processing.py, create_infotext). */
export function infotext(info: PictureInfo): string {
  const { prompt, negativePrompt, loras, width, height } = info
  const fields: [string, string | number | undefined][] = [
    ['Steps', info.steps],
    ['Sampler', samplers[info.sampler].title],
    ['Schedule type', samplers[info.sampler].schedule],
    ['CFG scale', info.cfg],
    ['Seed', info.seed],
    ['Size', `${width}x${height}`],
    ['Model hash', info.modelHash.slice(0, 10)],
    ['Model', info.model],
    ['Clip skip', info.clipSkip > 1 ? info.clipSkip : undefined],
    ['Lora hashes', loras.map(({ name, hash }) => `${name.replace(/[:,]/g, '')}: ${hash.slice(0, 12)}`).join(', ') || undefined],
    ['Version', `lorafuse ${version()}`],
  ]
  const quote = (value: string | number) => (/[,\n:]/.test(String(value)) ? JSON.stringify(value) : value)
  return [
    prompt.trim(),
    ...(negativePrompt === '' ? [] : [`Negative prompt: ${negativePrompt}`]),
    fields.flatMap(([key, value]) => (value === undefined ? [] : [`${key}: ${quote(value)}`])).join(', '),
  ].join('\n')
}
