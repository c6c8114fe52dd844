/** The CUDA backend on the emulator of test/emulator: the tests' GPU. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = fileURLToPath(new URL('../../..', import.meta.url))
/** `build/Release`: what the native build leaves. */
export const built = (...names: string[]) => join(root, 'build/Release', ...names)
/** For sm_75 and sm_80, with machine code: the target gpu_tests of test/tests.cmake. */
export const emulatedLibrary = built('emulated/75-80/liblorafuse_cuda.so')

/** Whether native_tests has a GPU to emulate; a machine without nvcc builds none. */
export function hasEmulator(): boolean {
  const library = built('emulated/liblorafuse_cuda.so')
  if (!existsSync(library)) console.log(`# no CUDA backend in this build, as nvcc was not found: ${library} is not there`)
  return existsSync(library)
}

/**
 * Whether this build has the CUDA backend. From then on this process and those it starts compute on an emulated sm_75 when they ask for a
 * GPU, or on what PTXEMU_GPU and LORAFUSE_CUDA_LIBRARY name already.
 */
export function hasGpu(): boolean {
  if (process.env.LORAFUSE_CUDA_LIBRARY) return true
  if (!hasEmulator()) return false
  if (!existsSync(emulatedLibrary)) throw new Error(`Expected ${emulatedLibrary}: build it with npm run build:gpu-tests`)
  process.env.LORAFUSE_CUDA_LIBRARY = emulatedLibrary
  process.env.PTXEMU_GPU ??= '75'
  return true
}
