/** Adapter files: written in kohya's layout, read in kohya's or in diffusers' and PEFT's. */
import { LorafuseError } from '../errors.js'
import { typeHolding } from '../files/floats.js'
import { type NamedTensor, readHeader, readTensors } from '../files/safetensors.js'
import type { Layer } from '../native.js'
import { type AdapterKind, type Adapters, parameterViews, unsupported } from './adapter.js'
import { kohyaName, type Prefixes, parseKohyaName } from './kohya.js'
import { parsePeftName } from './peft.js'

/**
 * Makes the tensors of a file: every parameter, and each layer's alpha, in f32 where `dtype` does not hold it. `flat`: the session's buffer
 * `weights`.
 */
export function kohyaTensors(adapters: Adapters, flat: Float32Array, dtype: NamedTensor['dtype'], prefixes: Prefixes): NamedTensor[] {
  const { kind, alpha, parameters, layers } = adapters
  const byPath = new Map(layers.map((layer) => [layer.path, layer]))
  const tensors = new Map<string, NamedTensor>()
  const add = (tensor: NamedTensor) => tensors.set(tensor.name, tensor)
  for (const { network, path, role, shape, data } of parameterViews(parameters, flat)) {
    const name = (part: string) => kohyaName(prefixes, network, path, part)
    add({ name: name(role), dtype, shape: kind.fileShape(shape, byPath.get(path)!), data })
    add({ name: name('alpha'), dtype: typeHolding(alpha, dtype), shape: [], data: Float32Array.of(alpha) })
  }
  return [...tensors.values()]
}

/**
 * Reads the adapters of a kind for a network with these layers, by the layers' paths. Throws `FILE_NOT_FOUND`, `SAFETENSORS_INVALID`,
 * `LORA_UNSUPPORTED` (it has layers of another network, or is another kind of adapter), `LORA_MISMATCH` (made for another model).
 */
export async function readAdapters<Part>(
  kind: AdapterKind<Part>,
  path: string,
  network: string,
  layers: Layer[],
  prefixes: Prefixes,
): Promise<Map<string, Part>> {
  const header = await readHeader(path)
  const byName = new Map(layers.map((layer) => [layer.path.replaceAll('.', '_'), layer]))
  const found = new Map<Layer, Record<string, string>>()
  for (const { name } of header.tensors) {
    const parsed = parseKohyaName(prefixes, name) ?? parsePeftName(name)
    if (parsed?.network !== network) throw unsupported(path, 'LoRA matrices of the UNet alone', `the tensor ${name}`)
    const layer = byName.get(parsed.layer)
    if (!layer) throw new LorafuseError('LORA_MISMATCH', `Expected layers of the model in the LoRA ${path} but received ${name}`)
    found.set(layer, { ...found.get(layer), [parsed.role]: name })
  }
  if (found.size === 0) throw unsupported(path, 'LoRA matrices', 'none')
  const shared = { path, network, tensors: await readTensors(path, undefined, header), metadata: header.metadata }
  return new Map([...found].map(([layer, names]) => [layer.path, kind.read({ ...shared, layer, names })]))
}
