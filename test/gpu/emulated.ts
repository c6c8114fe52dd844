/** The CUDA backend on the emulator of test/emulator: the tests' GPU. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = fileURLToPath(new URL('../../..', import.meta.url))
/** `build/Release`: what the native build leaves. */
export const built = (...names: string[]) => join(root, 'build/Release', ...names)
export const emulatedLibrary = built('emulated/liblorafuse_cuda.so')

/**
 * Whether this build has the CUDA backend; a machine without nvcc builds none. From then on this process and those it starts compute on
 * the emulator when they ask for a GPU, or on what LORAFUSE_CUDA_LIBRARY names already.
 */
export function hasGpu(): boolean {
  if (!existsSync(emulatedLibrary)) {
    console.log(`# no CUDA backend in this build, as nvcc was not found: ${emulatedLibrary} is not there`)
    return false
  }
  process.env.LORAFUSE_CUDA_LIBRARY ??= emulatedLibrary
  return true
}
