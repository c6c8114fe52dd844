/** What files are, by their names and their first bytes. */
import { extname } from 'node:path'

/** Extensions of the files that are taken for images. */
export const IMAGE_EXTENSIONS = ['.png', '.jpg', '.jpeg', '.jpe', '.jfif', '.webp', '.avif', '.gif', '.tif', '.tiff']

/** Extensions of images that sharp's prebuilt libvips cannot read. */
const UNSUPPORTED: Record<string, string> = {
  ...{ '.bmp': 'BMP', '.dib': 'BMP', '.heic': 'HEIC', '.heif': 'HEIC', '.hif': 'HEIC', '.jxl': 'JPEG XL', '.jp2': 'JPEG 2000' },
  ...{ '.psd': 'PSD', '.svg': 'SVG', '.tga': 'TGA', '.ico': 'ICO', '.exr': 'EXR', '.hdr': 'HDR' },
  ...{ '.dng': 'raw camera', '.cr2': 'raw camera', '.cr3': 'raw camera', '.nef': 'raw camera', '.arw': 'raw camera' },
}

/** First bytes of images that cannot be read, whatever their name says, as latin1. */
const SIGNATURES: [begin: RegExp, format: string][] = [
  [/^BM.{4}\0{4}/s, 'BMP'],
  // The main brand or a compatible one.
  [/^.{4}ftyp(?:.{4}){0,8}?(?:hei[cxms]|hev[cxms])/s, 'HEIC'],
  [/^(?:\xff\n|.{4}JXL )/s, 'JPEG XL'],
  [/^.{4}jP {2}/s, 'JPEG 2000'],
  [/^8BPS/, 'PSD'],
  [/^%PDF/, 'PDF'],
]

/** Files of other tools, ignored in silence: caches of latents, kohya's metadata, and what file managers leave behind. */
const SIDE_EXTENSIONS = ['.npz', '.json', '.jsonl', '.safetensors']
const SIDE_NAMES = ['thumbs.db', 'ehthumbs.db', 'desktop.ini', 'icon\r', '__macosx', '@eadir']

const extensionOf = (name: string) => extname(name).toLowerCase()

export function isImage(name: string): boolean {
  return IMAGE_EXTENSIONS.includes(extensionOf(name))
}

export function isHidden(name: string): boolean {
  return name.startsWith('.')
}

/** Whether a file or folder belongs to other tools. */
export function isSide(name: string): boolean {
  return isHidden(name) || SIDE_EXTENSIONS.includes(extensionOf(name)) || SIDE_NAMES.includes(name.toLowerCase())
}

/** Returns the format that the name of an image names, if it is one that cannot be read. */
export function unsupportedName(name: string): string | undefined {
  return UNSUPPORTED[extensionOf(name)]
}

/** Returns the format that a file's first bytes show, if it is one that cannot be read. */
export function unsupportedContent(bytes: Uint8Array): string | undefined {
  const begin = Buffer.from(bytes.subarray(0, 64)).toString('latin1')
  return SIGNATURES.find(([signature]) => signature.test(begin))?.[1]
}
