/** Which files hold all weights of a network, by their names: for what is read from a folder and for what is fetched from the Hub. */
import type { Network } from '../native.js'

type Architecture = Network['architecture']

/** How the names of weight files begin and end; pickles are the last resort. */
const STEMS: Record<Architecture, [stem: string, extension: string][]> = {
  unet: ['safetensors', 'bin'].map((extension) => ['diffusion_pytorch_model', extension]),
  vae: ['safetensors', 'bin'].map((extension) => ['diffusion_pytorch_model', extension]),
  clip: [
    ['model', 'safetensors'],
    ['pytorch_model', 'bin'],
  ],
}

/** Variants of weights, as names have them, the one that is read first. */
const VARIANTS = ['', '.fp32', '.fp16', '.bf16', '.non_ema']

/** One file that holds all weights, or an index and the shards beside it. */
export interface WeightSet {
  variant: string
  files: string[]
  /** The one of `files` that lists the shards. */
  index?: string
  isPickle: boolean
  /** Whether all shards are there, as far as their names tell. */
  isWhole: boolean
}

/** The file that a network's weights are in if nothing says otherwise. */
export function usualFile(architecture: Architecture): string {
  return STEMS[architecture][0]!.join('.')
}

/** Lists the sets of weights of which there is anything in a folder with these names, the one that is read first. */
export function weightSets(names: string[], architecture: Architecture): WeightSet[] {
  const sets = STEMS[architecture].flatMap(([stem, extension]) =>
    VARIANTS.map((variant): WeightSet[] => {
      const [single, index] = [`${stem}${variant}.${extension}`, `${stem}.${extension}.index${variant}.json`]
      // diffusers once wrote the variant behind the number.
      const dotted = variant.replace('.', '\\.')
      const pattern = new RegExp(`^${stem}(?:${dotted}-\\d{5}-of-(\\d{5})|-\\d{5}-of-(\\d{5})${dotted})\\.${extension}$`)
      const shards = names.filter((name) => pattern.test(name))
      const [, count, other = count] = pattern.exec(shards[0] ?? '') ?? []
      const about = { variant, isPickle: extension === 'bin' }
      return [
        ...(names.includes(single) ? [{ ...about, files: [single], isWhole: true }] : []),
        ...(names.includes(index) ? [{ ...about, files: [index, ...shards], index, isWhole: shards.length === Number(other) }] : []),
      ]
    }),
  )
  return sets.flat()
}
