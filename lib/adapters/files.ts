/** Adapter files: written in kohya's layout, read in kohya's or in diffusers' and PEFT's. */
import { LorafuseError } from '../errors.js'
import { isNumberType, typeHolding } from '../files/floats.js'
import { type NamedTensor, readHeader, readTensors, type SafetensorsHeader } from '../files/safetensors.js'
import type { Layer } from '../native.js'
import { turns } from '../turns.js'
import { type AdapterKind, type Adapters, fileParameters, shownName, unsupported, type Warn } from './adapter.js'
import { explain, otherFamily } from './foreign.js'
import { kohyaName, kohyaShape, type Prefixes, parseKohyaName } from './kohya.js'
import { parsePeftName, readPeftLayers } from './peft.js'

/**
 * Makes the tensors of a file: every parameter, and each layer's alpha, in f32 where `dtype` does not hold it. `flat` and `room`: see
 * `fileParameters`.
 */
export async function kohyaTensors(
  adapters: Adapters,
  flat: Float32Array,
  dtype: NamedTensor['dtype'],
  prefixes: Prefixes,
  room?: Float32Array,
): Promise<NamedTensor[]> {
  const tensors = new Map<string, NamedTensor>()
  const add = (tensor: NamedTensor) => tensors.set(tensor.name, tensor)
  for (const { network, path, role, shape, data, alpha } of await fileParameters(adapters, flat, room)) {
    const name = (part: string) => kohyaName(prefixes, network, path, part)
    add({ name: name(role), dtype, shape: kohyaShape(prefixes, network, path, shape), data })
    add({ name: name('alpha'), dtype: typeHolding(alpha, dtype), shape: [], data: Float32Array.of(alpha) })
  }
  return [...tensors.values()]
}

/** What adapters are read for. */
export interface AdapterTarget {
  network: string
  /** Its layers that can have an adapter. */
  layers: Layer[]
  prefixes: Prefixes
  /** The model's family in kohya's words: `sd_v1`. */
  baseModelVersion: string
}

type Names = Record<string, string>

function mismatch(path: string, name: string): LorafuseError {
  return new LorafuseError('LORA_MISMATCH', `Expected LoRA matrices of the model's UNet in ${path} but received ${shownName(name)}`)
}

/** Finds the layer and the role of each tensor. */
function placeTensors(path: string, header: SafetensorsHeader, target: AdapterTarget): Map<Layer, Names> {
  const { network, layers, prefixes, baseModelVersion } = target
  const byName = new Map(layers.map((layer) => [layer.path.replaceAll('.', '_'), layer]))
  const places = new Map<Layer, Names>()
  for (const { name, dtype } of header.tensors) {
    const parsed = parseKohyaName(prefixes, name) ?? parsePeftName(name)
    const layer = parsed?.network === network ? byName.get(parsed.layer) : undefined
    if (!parsed || !layer) throw explain(path, header, baseModelVersion) ?? mismatch(path, name)
    const names = places.get(layer) ?? {}
    places.set(layer, names)
    const other = names[parsed.role]
    if (other !== undefined) throw unsupported(path, 'one LoRA', `two: ${shownName(other)} and ${shownName(name)}`)
    names[parsed.role] = name
    if (!isNumberType(dtype) || (parsed.role !== 'alpha' && dtype.startsWith('I')))
      throw unsupported(path, 'floats', `${dtype} for ${shownName(name)}`)
  }
  return places
}

/**
 * Reads the adapters of a kind for a network, by the layers' paths. `warn` is told what looks wrong. Throws `LORA_UNSUPPORTED` (another
 * kind of file, or of layers), `LORA_INVALID` (numbers that make no sense), `LORA_MISMATCH` (made for another model), `SAFETENSORS_INVALID`,
 * and as `openFile`.
 */
export async function readAdapters<Part>(
  kind: AdapterKind<Part>,
  path: string,
  target: AdapterTarget,
  warn: Warn = () => undefined,
): Promise<Map<string, Part>> {
  const header = await readHeader(path, 'a LoRA')
  const { network, baseModelVersion } = target
  const places = placeTensors(path, header, target)
  if (places.size === 0) throw unsupported(path, 'LoRA matrices', 'none')
  const about = { path, network, metadata: header.metadata, names: header.tensors.map(({ name }) => name) }
  const configOf = await readPeftLayers(
    about,
    [...places.keys()].map((layer) => layer.path),
    warn,
  )
  const shared = { path, network, tensors: await readTensors(path, undefined, header), family: otherFamily(header, baseModelVersion) }
  const parts = new Map<string, Part>()
  const turn = turns()
  for (const [layer, names] of places) {
    parts.set(layer.path, kind.read({ ...shared, layer, names, config: configOf?.(layer.path) }))
    await turn()
  }
  return parts
}
