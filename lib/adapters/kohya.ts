/** Names of tensors in kohya's LoRA files, in both directions (kohya-ss/sd-scripts:networks/lora.py). */

/** What the name of a tensor in a LoRA file refers to. */
export interface TensorName {
  network: string
  /** The layer's path as the file spells it, with `_` for `.`, as kohya's names have it. */
  layer: string
  /** `down`, `up`, `alpha`. */
  role: string
}

/** How kohya names a network's layers. */
export interface Prefix {
  /** Begins the names: `lora_unet`. */
  prefix: string
  /** Spells the path of a layer, or of a tensor in it, as kohya does: those of SDXL's UNet as SGM. */
  spell?(path: string): string
}

/** By network; from `loraPrefixes` of the model. */
export type Prefixes = Record<string, Prefix>

const SUFFIXES: Record<string, string> = { down: 'lora_down.weight', up: 'lora_up.weight', alpha: 'alpha' }

/** Names a layer: `lora_unet_mid_block_attentions_0_proj_in`. */
export function kohyaLayer(prefixes: Prefixes, network: string, path: string): string {
  const { prefix, spell } = prefixes[network]!
  return `${prefix}_${(spell?.(path) ?? path).replaceAll('.', '_')}`
}

/** Names a tensor: `lora_unet_mid_block_attentions_0_proj_in.lora_down.weight`. */
export function kohyaName(prefixes: Prefixes, network: string, path: string, role: string): string {
  return `${kohyaLayer(prefixes, network, path)}.${SUFFIXES[role]}`
}

/** Networks by what begins names in files: kohya's, of any family, and OneTrainer's. */
const NETWORKS: Record<string, string> = {
  lora_unet: 'unet',
  lora_te: 'text_encoder',
  lora_te1: 'text_encoder',
  lora_te2: 'text_encoder_2',
}
/** OneTrainer also writes paths with points. */
const NAME = /^(lora_unet|lora_te[12]?)[_.](.+?)\.(lora_down\.weight|lora_up\.weight|alpha)$/

/** Parses a tensor's name; undefined if it is not kohya's. */
export function parseKohyaName(name: string): TensorName | undefined {
  const [, prefix, path, suffix] = NAME.exec(name) ?? []
  if (prefix === undefined || path === undefined) return undefined
  const role = Object.keys(SUFFIXES).find((key) => SUFFIXES[key] === suffix) as string
  return { network: NETWORKS[prefix] as string, layer: path.replaceAll('.', '_'), role }
}
