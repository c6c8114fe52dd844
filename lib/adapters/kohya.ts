/** Names of tensors in kohya's LoRA files, in both directions (kohya-ss/sd-scripts:networks/lora.py). */

/** What the name of a tensor in a LoRA file refers to. */
export interface TensorName {
  network: string
  /** The layer's path with `_` for `.`, as kohya's names have it. */
  layer: string
  /** `down`, `up`, `alpha`. */
  role: string
}

/** kohya's prefix of each network, from the model's family. */
export type Prefixes = Record<string, string>

const SUFFIXES: Record<string, string> = { down: 'lora_down.weight', up: 'lora_up.weight', alpha: 'alpha' }

/** Names a layer: `lora_unet_mid_block_attentions_0_proj_in`. */
export function kohyaLayer(prefixes: Prefixes, network: string, path: string): string {
  return `${prefixes[network]}_${path.replaceAll('.', '_')}`
}

/** Names a tensor: `lora_unet_mid_block_attentions_0_proj_in.lora_down.weight`. */
export function kohyaName(prefixes: Prefixes, network: string, path: string, role: string): string {
  return `${kohyaLayer(prefixes, network, path)}.${SUFFIXES[role]}`
}

/** Parses a tensor's name; undefined if it is not kohya's. */
export function parseKohyaName(prefixes: Prefixes, name: string): TensorName | undefined {
  const dot = name.indexOf('.')
  const role = Object.keys(SUFFIXES).find((key) => SUFFIXES[key] === name.slice(dot + 1))
  const network = Object.keys(prefixes).find((key) => name.startsWith(`${prefixes[key]}_`))
  if (dot < 0 || role === undefined || network === undefined) return undefined
  return { network, layer: name.slice(prefixes[network]!.length + 1, dot), role }
}
