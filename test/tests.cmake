# native_tests, and the emulator where nvcc is: what `npm test` runs. The target gpu_tests: what `npm run test:gpu` needs beside them.
set(TEST ${CMAKE_CURRENT_LIST_DIR})
set(CMAKE_UNITY_BUILD OFF)  # helpers of different files have the same names
add_library(test_runner OBJECT ${TEST}/runner/runner.cc)
target_compile_options(test_runner PRIVATE ${OPTIMIZE_CORE})

file(GLOB TESTS CONFIGURE_DEPENDS ${TEST}/native/*.cc)
list(FILTER TESTS EXCLUDE REGEX "/main\\.cc$")
add_library(test_cases OBJECT ${TESTS})
target_include_directories(test_cases PUBLIC native ${TEST}/native)
target_compile_options(test_cases PRIVATE -O1)
set_source_files_properties(${TEST}/native/reference.cc ${TEST}/native/op_rows.cc PROPERTIES COMPILE_OPTIONS ${OPTIMIZE_CORE} SKIP_PRECOMPILE_HEADERS ON)
target_precompile_headers(test_cases PRIVATE ${TEST}/native/checkpoint.h ${TEST}/native/golden.h ${TEST}/native/op_rows.h)
target_compile_definitions(test_cases PRIVATE LORAFUSE_FIXTURES="${TEST}/fixtures")
target_link_libraries(test_cases PUBLIC test_runner)
add_executable(native_tests ${TEST}/native/main.cc)
target_link_libraries(native_tests PRIVATE test_cases test_runner core ${CMAKE_DL_LIBS} Threads::Threads)
get_property(product DIRECTORY PROPERTY BUILDSYSTEM_TARGETS)
list(FILTER product INCLUDE REGEX "^lorafuse")
add_dependencies(native_tests ${product})

if(EXISTS ${TEST}/extension/CMakeLists.txt)
  add_subdirectory(${TEST}/extension)
  add_dependencies(native_tests extension_tests)
endif()

if(TARGET lorafuse_cuda)
  add_subdirectory(${TEST}/emulator EXCLUDE_FROM_ALL)
  set_target_properties(cudart_emulator PROPERTIES LIBRARY_OUTPUT_DIRECTORY "${LORAFUSE_OUTPUT}/emulated")
  set_target_properties(runtime_tests PROPERTIES INSTALL_RPATH "$ORIGIN/emulated")

  # The backend as it is built here. Its first architecture is the GPU that native_tests emulate.
  add_cuda_backend(lorafuse_cuda_emulated cuda_kernels /emulated cudart_emulator)
  list(GET CMAKE_CUDA_ARCHITECTURES 0 architecture)
  string(REGEX MATCH "[0-9]+" architecture "${architecture}")
  set_source_files_properties(${TEST}/native/backends.cc PROPERTIES COMPILE_DEFINITIONS
    "LORAFUSE_EMULATED_LIBRARY=\"${LORAFUSE_OUTPUT}/emulated/liblorafuse_cuda.so\";LORAFUSE_EMULATED_GPU=\"${architecture}\"")
  add_dependencies(native_tests lorafuse_cuda_emulated)

  # The backend for both generations whose code differs, with machine code: Turing and Ampere.
  set(CMAKE_CUDA_ARCHITECTURES 75 80)
  add_cuda_kernels(cuda_kernels_75_80)
  add_cuda_backend(lorafuse_cuda_75_80 cuda_kernels_75_80 /emulated/75-80 cudart_emulator)
  set_target_properties(lorafuse_cuda_75_80 PROPERTIES INSTALL_RPATH "$ORIGIN/..")

  file(GLOB GPU CONFIGURE_DEPENDS ${TEST}/gpu/*.cc)
  add_executable(gpu_check EXCLUDE_FROM_ALL ${GPU})
  target_link_libraries(gpu_check PRIVATE test_cases test_runner core ${CMAKE_DL_LIBS} Threads::Threads)
  add_dependencies(gpu_check ${product})

  set_target_properties(cuda_kernels_75_80 lorafuse_cuda_75_80 PROPERTIES EXCLUDE_FROM_ALL ON)
  add_custom_target(gpu_tests DEPENDS native_tests emulator_tests runtime_tests lorafuse_cuda_75_80 gpu_check)
endif()
