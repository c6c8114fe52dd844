import { hasGpu } from './emulated.js'

if (hasGpu()) await import('../train/golden.test.js')
