/** What PyTorch's files hold, as far as it is read: dicts, and tensors as parts of storages. */
import { cut, shown } from '../errors.js'
import { isCount } from '../files/json.js'

/** Stands for every object that is not built. */
export const OPAQUE = Symbol('opaque')

/** A Python dict; keys that are no texts, and their values, are left out. */
export class Dict {
  private entries: Map<string, unknown> | undefined

  set(key: unknown, value: unknown): void {
    if (typeof key !== 'string') return
    this.entries ??= new Map()
    this.entries.set(key, value)
  }

  get(key: string): unknown {
    return this.entries?.get(key)
  }

  [Symbol.iterator](): IterableIterator<[string, unknown]> {
    return (this.entries ?? new Map<string, unknown>())[Symbol.iterator]()
  }
}

/** Bytes of a file of which tensors are parts; `dtype`: of safetensors, undefined where the tensors themselves say it. */
export class Storage {
  constructor(
    readonly key: string,
    readonly dtype: string | undefined,
    /** Elements; bytes where there is no `dtype`. */
    readonly count: number,
    /** Where the elements that are meant begin, in old files whose storages may be views of others. */
    readonly begin = 0,
  ) {}
}

/** A tensor as a part of a storage; `offset` and `strides` count elements. */
export class StoredTensor {
  constructor(
    readonly storage: Storage,
    readonly dtype: string,
    readonly offset: number,
    readonly shape: number[],
    readonly strides: number[],
  ) {}
}

/** A tensor whose numbers are nowhere in the file as they are, or its storage; `problem`: why not. */
export class UnstoredTensor {
  constructor(
    readonly problem: string,
    readonly shape: number[] = [],
  ) {}
}

/** The name of a class or function. */
export class Global {
  constructor(readonly name: string) {}
}

/** The names of torch's storages and dtypes, and safetensors' dtypes of their elements. */
const DTYPES: Record<string, string> = {
  ...{ 'torch.FloatStorage': 'F32', 'torch.HalfStorage': 'F16', 'torch.BFloat16Storage': 'BF16', 'torch.DoubleStorage': 'F64' },
  ...{ 'torch.LongStorage': 'I64', 'torch.IntStorage': 'I32', 'torch.ShortStorage': 'I16', 'torch.CharStorage': 'I8' },
  ...{ 'torch.ByteStorage': 'U8', 'torch.BoolStorage': 'BOOL' },
  ...{ 'torch.float32': 'F32', 'torch.float16': 'F16', 'torch.bfloat16': 'BF16', 'torch.float64': 'F64' },
  ...{ 'torch.float8_e4m3fn': 'F8_E4M3', 'torch.float8_e5m2': 'F8_E5M2', 'torch.int64': 'I64', 'torch.int32': 'I32' },
  ...{ 'torch.uint8': 'U8', 'torch.int8': 'I8', 'torch.int16': 'I16', 'torch.bool': 'BOOL' },
}

const UNTYPED = ['torch.storage.UntypedStorage', 'torch.UntypedStorage']
/** They return what they are given. */
const GIVEN = ['torch.Size', 'torch._utils._rebuild_parameter', 'torch._utils._rebuild_parameter_with_state']
const MOST_RANK = 64

const isShape = (value: unknown): value is number[] => Array.isArray(value) && value.length <= MOST_RANK && value.every(isCount)

function dtypeOf(named: unknown): string | undefined {
  return named instanceof Global && Object.hasOwn(DTYPES, named.name) ? DTYPES[named.name] : undefined
}

/**
 * The storage that a persistent id names: `('storage', type, key, device, count)`, in old files with a view of it, `(key, begin, count)`, or
 * none behind it.
 */
export function storageOf(id: unknown): unknown {
  if (!Array.isArray(id)) return OPAQUE
  const [kind, type, key, , count, view = null] = id as unknown[]
  if (kind !== 'storage' || !(type instanceof Global) || typeof key !== 'string' || !isCount(count)) return OPAQUE
  const begin = Array.isArray(view) ? (view[1] as unknown) : 0
  if (!isCount(begin) || (view !== null && !Array.isArray(view))) return new UnstoredTensor('its storage is a view of an unknown kind')
  const dtype = dtypeOf(type)
  if (dtype === undefined && !UNTYPED.includes(type.name)) return new UnstoredTensor(`its numbers are of another type, ${shown(type.name)}`)
  return new Storage(key, dtype, count, begin)
}

/** torch's functions that make tensors, plain or not, and numpy's. */
const REBUILDS = /^torch\._(utils|tensor)\._rebuild_|^numpy\._?core\.multiarray\._reconstruct$/

/** The tensor that a function of torch makes of a storage, an offset, a shape, strides and, the third, its dtype. */
function tensorOf(name: string, values: unknown[]): unknown {
  if (!REBUILDS.test(name)) return OPAQUE
  const [storage, offset, shape, strides, , , stated] = values
  const known = isShape(shape) ? shape : []
  if (!/^torch\._utils\._rebuild_tensor(_v[23])?$/.test(name)) return new UnstoredTensor(`it is made by ${cut(name)}`, known)
  if (!(storage instanceof Storage)) {
    return new UnstoredTensor(storage instanceof UnstoredTensor ? storage.problem : 'its storage is of an unknown kind', known)
  }
  const dtype = name.endsWith('_v3') ? dtypeOf(stated) : storage.dtype
  if (dtype === undefined)
    return new UnstoredTensor(`its numbers are of another type, ${shown((stated as Global | undefined)?.name)}`, known)
  if (!isCount(offset) || !isShape(shape) || !isShape(strides) || shape.length !== strides.length)
    return new UnstoredTensor('its shape, its strides or its offset make no sense', known)
  return new StoredTensor(storage, dtype, storage.begin + offset, shape, strides)
}

/** What a call makes that is no dict: a tensor, what it was given, or nothing. */
export function resultOf(callable: unknown, values: unknown[]): unknown {
  const name = callable instanceof Global ? callable.name : ''
  const [first, , args] = values
  if (name === 'torch._tensor._rebuild_from_type_v2' && Array.isArray(args)) return resultOf(first, args)
  return GIVEN.includes(name) ? first : tensorOf(name, values)
}
