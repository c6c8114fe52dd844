/** Adapter files: read and written in kohya's layout, and in diffusers' and PEFT's. */
import { LorafuseError } from '../errors.js'
import { isNumberType, typeHolding } from '../files/floats.js'
import { type NamedTensor, readHeader, readTensors, type SafetensorsHeader } from '../files/safetensors.js'
import type { Layer, Parameter } from '../native.js'
import type { ResolvedTrainOptions } from '../options/resolve.js'
import { turns } from '../turns.js'
import {
  type AdapterKind,
  type Adapters,
  type AlphaPlace,
  type FileParameter,
  fileParameters,
  shownName,
  unsupported,
  type Warn,
} from './adapter.js'
import { checkFamily, explain, otherFamily } from './foreign.js'
import { kohyaName, type Prefixes, parseKohyaName } from './kohya.js'
import { parsePeftName, peftConfig, peftName, readPeftLayers } from './peft.js'

type NetworkFormat = ResolvedTrainOptions['networkFormat']

/** A layout of the files that a training writes. */
export interface Layout {
  alpha: AlphaPlace
  /** Names and shapes the tensors of a file; f32 where `dtype` does not hold an alpha. */
  tensors(parameters: FileParameter[], dtype: NamedTensor['dtype'], prefixes: Prefixes): NamedTensor[]
  /** What else is to stand in the file's metadata. */
  metadata(parameters: Parameter[]): Record<string, string>
}

/** By the words of `--network-format`. */
export const layouts: Record<NetworkFormat, Layout> = {
  kohya: {
    alpha: 'beside',
    tensors(parameters, dtype, prefixes) {
      const tensors = new Map<string, NamedTensor>()
      const add = (tensor: NamedTensor) => tensors.set(tensor.name, tensor)
      for (const { network, path, role, shape, data, alpha } of parameters) {
        const name = (part: string) => kohyaName(prefixes, network, path, part)
        add({ name: name(role), dtype, shape, data })
        add({ name: name('alpha'), dtype: typeHolding(alpha, dtype), shape: [], data: Float32Array.of(alpha) })
      }
      return [...tensors.values()]
    },
    metadata: () => ({}),
  },
  peft: {
    alpha: 'baked',
    tensors: (parameters, dtype) =>
      parameters.map(({ network, path, role, shape, data }) => ({ name: peftName(network, path, role), dtype, shape, data })),
    metadata: (parameters) => ({ format: 'pt', lora_adapter_metadata: JSON.stringify(peftConfig(parameters)) }),
  },
}

/** Makes the tensors of a file. `flat` and `room`: see `fileParameters`. */
export async function fileTensors(
  format: NetworkFormat,
  adapters: Adapters,
  flat: Float32Array,
  dtype: NamedTensor['dtype'],
  prefixes: Prefixes,
  room?: Float32Array,
): Promise<NamedTensor[]> {
  const { alpha, tensors } = layouts[format]
  return tensors(await fileParameters(adapters, flat, alpha, room), dtype, prefixes)
}

/** What adapters are read for. */
export interface AdapterTarget {
  /** By network, its layers that can have an adapter. */
  layers: Record<string, Layer[]>
  prefixes: Prefixes
  /** The model's family in kohya's words: `sd_v1`. */
  baseModelVersion: string
}

/** What is read from a file: by network, then by the layer's path. */
export type AdapterFile<Part> = Map<string, Map<string, Part>>

type Names = Record<string, string>
/** By network, the names of each layer's tensors. */
type Places = Map<string, Map<Layer, Names>>

function mismatch(path: string, name: string): LorafuseError {
  return new LorafuseError('LORA_MISMATCH', `Expected LoRA matrices of the model's layers in ${path} but received ${shownName(name)}`)
}

/** Finds layers by the names that files have for them: diffusers', kohya's, and those of transformers 5, which lack `text_model`. */
function layersByName({ layers, prefixes }: AdapterTarget): Map<string, Layer> {
  const byName = new Map<string, Layer>()
  for (const [network, own] of Object.entries(layers)) {
    const spell = prefixes[network]?.spell ?? ((path: string) => path)
    for (const layer of own) {
      for (const path of [layer.path, spell(layer.path), layer.path.replace(/^text_model\./, '')]) {
        byName.set(`${network} ${path.replaceAll('.', '_')}`, layer)
      }
    }
  }
  return byName
}

/** Finds the layer and the role of each tensor. */
function placeTensors(path: string, header: SafetensorsHeader, target: AdapterTarget): Places {
  const byName = layersByName(target)
  const places: Places = new Map()
  for (const { name, dtype } of header.tensors) {
    const parsed = parseKohyaName(name) ?? parsePeftName(name)
    const layer = parsed && byName.get(`${parsed.network} ${parsed.layer}`)
    if (!parsed || !layer) throw explain(path, header, target.baseModelVersion) ?? mismatch(path, name)
    const network = places.get(parsed.network) ?? new Map<Layer, Names>()
    places.set(parsed.network, network)
    const names = network.get(layer) ?? {}
    network.set(layer, names)
    const other = names[parsed.role]
    if (other !== undefined) throw unsupported(path, 'one LoRA', `two: ${shownName(other)} and ${shownName(name)}`)
    names[parsed.role] = name
    if (!isNumberType(dtype) || (parsed.role !== 'alpha' && dtype.startsWith('I')))
      throw unsupported(path, 'floats', `${dtype} for ${shownName(name)}`)
  }
  return places
}

/**
 * Reads the adapters of a kind. `warn` is told what looks wrong. Throws `LORA_UNSUPPORTED` (another kind of file, or of layers), `LORA_INVALID`
 * (numbers that make no sense), `LORA_MISMATCH` (made for another model), `SAFETENSORS_INVALID`, and as `openFile`.
 */
export async function readAdapters<Part>(
  kind: AdapterKind<Part>,
  path: string,
  target: AdapterTarget,
  warn: Warn = () => undefined,
): Promise<AdapterFile<Part>> {
  const header = await readHeader(path, 'a LoRA')
  const places = placeTensors(path, header, target)
  if (places.size === 0) throw unsupported(path, 'LoRA matrices', 'none')
  const names = header.tensors.map(({ name }) => name)
  const { baseModelVersion } = target
  const family = otherFamily(header, baseModelVersion)
  const shared = { path, tensors: await readTensors(path, undefined, header), family }
  const file: AdapterFile<Part> = new Map()
  const turn = turns()
  for (const [network, layers] of places) {
    const paths = [...layers.keys()].map((layer) => layer.path)
    const configOf = await readPeftLayers({ path, network, metadata: header.metadata, names }, paths, warn)
    const parts = new Map<string, Part>()
    file.set(network, parts)
    for (const [layer, own] of layers) {
      parts.set(layer.path, kind.read({ ...shared, network, layer, names: own, config: configOf?.(layer.path) }))
      await turn()
    }
  }
  checkFamily(path, header, baseModelVersion, warn)
  return file
}
