/** Reads and writes prompts as A1111 does: `<lora:name:weight>` in the text, and the `parameters` of a picture. */
import { LorafuseError } from '../errors.js'
import { version } from '../version.js'
import type { DrawRequest } from './pipeline.js'

/** A LoRA that a prompt asks for by name. */
export interface PromptLora {
  name: string
  weight: number
}

/**
 * Takes the `<lora:…>` tags out of a prompt. As in A1111, the second weight of a tag, if there is one, is the UNet's
 * (AUTOMATIC1111/stable-diffusion-webui:extensions-builtin/Lora/extra_networks_lora.py). Throws `PROMPT_INVALID`.
 */
export function parsePrompt(prompt: string): { text: string; loras: PromptLora[] } {
  const loras: PromptLora[] = []
  const text = prompt.replace(/<lora:([^>]*)>/g, (tag: string, body: string) => {
    const [name, ...weights] = body.split(':').map((part) => part.trim())
    const weight = weights.length === 0 ? 1 : Number(weights.at(-1) || Number.NaN)
    if (!name || !Number.isFinite(weight)) {
      throw new LorafuseError('PROMPT_INVALID', `Expected <lora:name:weight> in the prompt but received ${tag}`)
    }
    loras.push({ name, weight })
    return ''
  })
  return { text, loras }
}

/** The prompt is without tags. */
export interface PictureInfo extends DrawRequest {
  /** `hash`: sha256 of the file's bytes after the header, as kohya's `sshs_model_hash`. */
  loras: { name: string; weight: number; hash: string }[]
  model: string
  /** A1111's old hash of the UNet's weights, 8 hex digits. */
  modelHash: string
}

/** Writes A1111's infotext, which its PNG info tab reads (AUTOMATIC1111/stable-diffusion-webui:modules/processing.py, create_infotext). */
export function infotext(info: PictureInfo): string {
  const { prompt, negativePrompt, loras, width, height } = info
  const fields: [string, string | number | undefined][] = [
    ['Steps', info.steps],
    ['Sampler', 'DDIM'],
    ['CFG scale', info.cfg],
    ['Seed', info.seed],
    ['Size', `${width}x${height}`],
    ['Model hash', info.modelHash.slice(0, 10)],
    ['Model', info.model],
    ['Clip skip', info.clipSkip > 1 ? info.clipSkip : undefined],
    ['Lora hashes', loras.map(({ name, hash }) => `${name}: ${hash.slice(0, 12)}`).join(', ') || undefined],
    ['Version', `lorafuse ${version()}`],
  ]
  const quote = (value: string | number) => (/[,\n:]/.test(String(value)) ? JSON.stringify(value) : value)
  const tags = loras.map(({ name, weight }) => ` <lora:${name}:${weight}>`)
  return [
    `${prompt.trim()}${tags.join('')}`,
    ...(negativePrompt === '' ? [] : [`Negative prompt: ${negativePrompt}`]),
    fields.flatMap(([key, value]) => (value === undefined ? [] : [`${key}: ${quote(value)}`])).join(', '),
  ].join('\n')
}
