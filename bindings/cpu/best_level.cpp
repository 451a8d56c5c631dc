// Run by CMake: the best instruction set of this machine.
#include <cstdio>

#include "cpu/levels.hpp"

int main() { std::fputs(pyalexnet::levels().back().second.c_str(), stdout); }
