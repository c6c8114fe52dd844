/** Names of tensors in kohya's LoRA files, in both directions (kohya-ss/sd-scripts:networks/lora.py). */

/** What the name of a tensor in a LoRA file refers to. */
export interface TensorName {
  network: string
  /** The layer's path with `_` for `.`, as kohya's names have it. */
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
  /** Whether kohya holds a layer as a 1×1 convolution, though the model's files hold a matrix. */
  isConv?(path: string): boolean
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

/** Returns the shape of a tensor in kohya's file from that of the model's own layer. */
export function kohyaShape(prefixes: Prefixes, network: string, path: string, shape: number[]): number[] {
  return shape.length === 2 && prefixes[network]!.isConv?.(path) ? [...shape, 1, 1] : shape
}

/** Parses a tensor's name; undefined if it is not kohya's. */
export function parseKohyaName(prefixes: Prefixes, name: string): TensorName | undefined {
  const dot = name.indexOf('.')
  const role = Object.keys(SUFFIXES).find((key) => SUFFIXES[key] === name.slice(dot + 1))
  const network = Object.keys(prefixes).find((key) => name.startsWith(`${prefixes[key]!.prefix}_`))
  if (dot < 0 || role === undefined || network === undefined) return undefined
  return { network, layer: name.slice(prefixes[network]!.prefix.length + 1, dot), role }
}
