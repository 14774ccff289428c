#pragma once
// In a real DDG4 it makes the class known to the factory of actions.
#define DECLARE_GEANT4ACTION_NS(space, name) template class dd4hep_stub::Declared<space::name>;
